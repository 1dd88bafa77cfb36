"""What was really read: units off by gate and phase, counted while the sparse model runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparseact.masked.clock import Clock
from sparseact.recipes.gate import Gate

if TYPE_CHECKING:
    from torch import Tensor


class Density:
    """Counts of the tokens that went through a sparse model, without padding.

    Attributes:
        off: units that were off, by (gate name, phase).
        tokens: tokens seen, by (gate name, phase).
        sparse: tokens of them for which a unit was off, so that the gate read what it needs for it.
    """

    def __init__(self, gates: Sequence[Gate], dense_bytes: int, element_size: int) -> None:
        """dense_bytes: weight bytes of all linears of the blocks and the head of the model."""
        self.gates = gates
        self.dense_bytes = dense_bytes
        self.element_size = element_size
        self.off: dict[tuple[str, str], int] = defaultdict(int)
        self.tokens: dict[tuple[str, str], int] = defaultdict(int)
        self.sparse: dict[tuple[str, str], int] = defaultdict(int)

    def reset(self) -> None:
        """Count anew."""
        for counts in (self.off, self.tokens, self.sparse):
            counts.clear()

    def count(self, gate: Gate, on: Tensor, clock: Clock) -> None:
        """Count a mask [batch, tokens, units]."""
        off = ~on & clock.real[..., None]
        key = (gate.site.name, clock.phase)
        self.off[key] += int(off.sum())
        self.tokens[key] += int(clock.real.sum())
        self.sparse[key] += int(off.any(dim=-1).sum())

    def share_off(self, gate: Gate, phase: str | None = None) -> float:
        """Share of one gate's units that were off, in a phase or over all tokens."""
        return self._per_token(self.off, gate, phase) / gate.site.units

    def by_layer(self, phase: str | None = None) -> dict[str, float]:
        """Share of the gated weight bytes that were read, by the layer's number or "head"."""
        gated: dict[str, float] = defaultdict(float)
        off: dict[str, float] = defaultdict(float)
        for gate in self.gates:
            layer = "head" if gate.site.is_head else str(gate.site.layer)
            size = gate.site.units * gate.site.unit_bytes
            gated[layer] += size
            off[layer] += size * self.share_off(gate, phase)
        return {layer: 1 - off[layer] / size for layer, size in gated.items()}

    def achieved(self, phase: str | None = None) -> float:
        """Share of the gated weight bytes that were not read, net of what the gates read themselves.

        What `sparsity` asks for.
        """
        gated = sum(gate.site.units * gate.site.unit_bytes for gate in self.gates)
        return self._saved(phase) / gated

    def bytes_per_token(self, phase: str | None = None) -> float:
        """Weight bytes read per token: blocks and head of the model, and what the gates read themselves."""
        return self.dense_bytes - self._saved(phase)

    def _saved(self, phase: str | None) -> float:
        return sum(
            self._per_token(self.off, gate, phase) * gate.site.unit_bytes
            - self._per_token(self.sparse, gate, phase) * gate.extra_bytes(self.element_size)
            for gate in self.gates
        )

    def _per_token(self, counts: dict[tuple[str, str], int], gate: Gate, phase: str | None) -> float:
        keys = [(gate.site.name, name) for name in ([phase] if phase else ["prefill", "decode"])]
        tokens = sum(self.tokens[key] for key in keys)
        return sum(counts[key] for key in keys) / tokens if tokens else 0.0
