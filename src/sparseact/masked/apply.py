"""Run a model through gates: hooks on its linears for the time of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseact.errors import InputError, SparseactError, UnsupportedModelError
from sparseact.masked.cache_check import not_now
from sparseact.masked.clock import Clock, read_clock
from sparseact.masked.density import Density
from sparseact.masked.gate import correction, guess, keep, on_device, pass_to_router, predict, rotate, route, signal_of
from sparseact.masked.selectors import mask
from sparseact.recipes.gate import Gate
from sparseact.recipes.phases import Phases
from sparseact.sites import Site, on_units, weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def run_sparse(
    model: PreTrainedModel,
    gates: Sequence[Gate],
    phases: Phases,
    *,
    masked: bool = True,
    on_scores: Callable[[Gate, Tensor], None] | None = None,
) -> Iterator[Density]:
    """Mask every gate's site in each forward pass inside the block; what was read is counted.

    Args:
        masked: false to leave the model dense, for watching scores only.
        on_scores: called with each gate and the scores [tokens, units] of the tokens that are sparse.

    Raises:
        SparseactError: on a normal exit, if a forward pass ran no gate, or there was none.
    """
    passes: list[bool] = []

    def note(*_: object) -> None:
        passes[:] = [True]

    by_site = {gate.site: gate for gate in on_device(gates, model.device, model.dtype)}  # one gate per site
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(note).remove)
        yield stack.enter_context(run_gates(model, by_site, phases, masked=masked, on_scores=on_scores))
    if not passes:
        raise SparseactError(
            f"the block ran no forward pass of this {type(model).__name__}, so that nothing was sparse: call the model "
            "itself, inside the block"
        )


@contextmanager
def run_gates(
    model: PreTrainedModel,
    by_site: Mapping[Site, Gate],
    phases: Phases,
    *,
    masked: bool = True,
    on_scores: Callable[[Gate, Tensor], None] | None = None,
) -> Iterator[Density]:
    """As `run_sparse`, with gates that are on the model's device and are looked up anew in each forward pass.

    Whoever trains may so change thresholds, scales and constants between two passes. Masks are without gradient; what
    is kept, the constants in place of what is not, and routers that are parameters have theirs.
    """
    density = Density(list(by_site.values()), weight_bytes(model), model.dtype.itemsize)
    pass_ = _Pass(dict(model.named_modules(remove_duplicate=False)), density, masked, on_scores)

    def tick(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pass_.clock = read_clock(kwargs | ({"input_ids": args[0]} if args else {}), phases)

    with ExitStack() as stack:
        stack.enter_context(not_now(model))
        stack.callback(model.register_forward_pre_hook(tick, with_kwargs=True).remove)
        for gate in by_site.values():
            if gate.signal.reads == "output":
                source = model.get_submodule(gate.signal.module)
                stack.callback(source.register_forward_hook(pass_.note_output(gate.signal.module)).remove)
            elif gate.signal.reads in {"predicted", "routed", "guessed"}:
                source = model.get_submodule(gate.signal.module)
                stack.callback(source.register_forward_pre_hook(pass_.note_input(gate.signal.module)).remove)
            if gate.low_rank is not None:
                linear = model.get_submodule(gate.site.module)
                stack.callback(linear.register_forward_hook(pass_.correct(gate)).remove)
        stack.enter_context(on_units(model, list(by_site), lambda site, x: pass_.apply(by_site[site], x)))
        yield density


class _Pass:
    """What the hooks of one forward pass tell each other."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        density: Density,
        masked: bool,  # noqa: FBT001
        on_scores: Callable[[Gate, Tensor], None] | None,
    ) -> None:
        self._modules = modules
        self.clock: Clock | None = None
        self._density = density
        self._masked = masked
        self._on_scores = on_scores
        self._noted: dict[str, Tensor] = {}
        self._dropped: dict[Site, Tensor] = {}
        self._prompt: dict[Site, Tensor] = {}  # scores of the units that it chooses
        self._frozen: dict[Site, Tensor] = {}

    def note_output(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            self._noted[name] = output

        return hook

    def note_input(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._noted[name] = args[0]

        return hook

    def correct(self, gate: Gate) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            dropped = self._dropped.pop(gate.site, None)
            if dropped is None:  # a block that shares this linear with the gate's ran it
                return output
            return output + correction(gate, dropped).reshape(output.shape)

        return hook

    def apply(self, gate: Gate, x: Tensor) -> Tensor:
        """Mask the units [batch, tokens, units, unit_size] of a gate's site."""
        if self.clock is None:
            raise InputError("a recipe runs the whole model: call the model itself, not one of its submodules")
        # Layers that make no keys of their own (Gemma 4) run the tokens whose logits are asked for, as the head does.
        cut = gate.site.is_head or x.shape[1] < self.clock.real.shape[1]
        if cut and gate.frozen and not gate.site.is_head:
            raise UnsupportedModelError(
                f"model: {gate.site.block} runs only the tokens of a prompt whose logits are asked for, so that no "
                "units can be chosen from the prompt there"
            )
        clock = self.clock.at_head() if cut else self.clock
        inputs = x.flatten(-2)
        units = inputs if gate.site.unit_size == 1 else x.norm(dim=-1)  # a head is as large as what it puts out
        on = self._mask(gate, units, clock) | ~clock.sparse[..., None]
        if not self._masked:
            on = torch.ones_like(on)
        self._density.count(gate, on, clock)
        kept = keep(gate, inputs, on[..., None].expand_as(x).flatten(-2))
        if gate.low_rank is not None:
            self._dropped[gate.site] = inputs - kept
        if gate.router is not None and gate.router[0].requires_grad and torch.is_grad_enabled():
            through = pass_to_router(gate, self._noted_by(gate, units), inputs)
            kept = kept + torch.where(clock.sparse[..., None], through, 0)
        return kept.view_as(x)

    @torch.no_grad()
    def _mask(self, gate: Gate, units: Tensor, clock: Clock) -> Tensor:
        if gate.frozen:
            return self._frozen_mask(gate, units, clock)
        scores = gate.score(self._signal(gate, units))
        if self._on_scores is not None:
            self._on_scores(gate, scores[clock.sparse & clock.real])
        return mask(gate.selector, scores)

    def _signal(self, gate: Gate, units: Tensor) -> Tensor:
        if gate.signal.reads == "input":
            return rotate(gate, units)
        noted = self._noted_by(gate, units)
        if gate.signal.reads == "guessed":
            return guess(gate, self._modules, noted)
        if gate.signal.reads == "output":
            return signal_of(gate.signal, noted)
        return route(gate, noted) if gate.signal.reads == "routed" else predict(gate, noted)

    def _noted_by(self, gate: Gate, units: Tensor) -> Tensor:
        """What the signal's module has read or put out, in the batch's shape."""
        noted = self._noted[gate.signal.module]
        return noted.reshape(*units.shape[:-1], noted.shape[-1])  # OPT flattens its MLP

    def _frozen_mask(self, gate: Gate, units: Tensor, clock: Clock) -> Tensor:
        if clock.phase == "prefill":
            scores = prompt_scores(units, clock.real)
            before = None if clock.begins else self._prompt.get(gate.site)
            if before is not None and before.shape == scores.shape:
                scores = (before.square() + scores.square()).sqrt()  # of all of the prompt, in whatever parts it comes
            self._prompt[gate.site] = scores
            self._frozen[gate.site] = mask(gate.selector, scores)[:, None]
            return torch.ones_like(units, dtype=torch.bool)
        frozen = self._frozen.get(gate.site)
        if frozen is None or len(frozen) != len(units):
            raise SparseactError(
                "decoding with units that are chosen from the prompt, but the prompt was not run inside "
                "`with recipe(model):`, or with another batch"
            )
        return frozen.expand(units.shape)


def prompt_scores(units: Tensor, real: Tensor) -> Tensor:
    """How much each unit mattered over a prompt: the norm over tokens of its share of a token's norm.

    GRIFFIN, arXiv 2404.01365: s = ||[z_t / ||z_t||_2]_t||_2.

    Args:
        units: [batch, tokens, units].
        real: [batch, tokens], false for padding.

    Returns:
        [batch, units]
    """
    share = units / units.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return share.where(real[..., None], 0).norm(dim=1)
