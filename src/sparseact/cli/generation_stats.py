"""What `generate --stats` says: rates, bytes, and what each layer read."""

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparseact.generation.answer import Answer
    from sparseact.generation.generated import Generated

PER_LINE = 10
"""Layers."""


def summary(found: "Answer") -> str:
    """A line for a reader."""
    written = found.written
    left_out = f", {written.achieved:.1%} of those the recipe chooses among left out" if written.density else ""
    megabytes = f"{written.bytes_per_token / 1e6:.1f} MB of weights each"
    return f"{written.tokens} token{'s' * (written.tokens != 1)}, {megabytes}{left_out} (device {found.device})\n"


def statistics(found: "Answer") -> str:
    """Lines for a reader: of what was written, and of the dense answer if there is one."""
    written, dense = found.written, found.dense
    lines = [
        f"prompt    {written.prompt_tokens} tokens in {written.prefill_seconds:.3f} s",
        f"answer    {_rate(written)}",
        *_density(written.density),
    ]
    if written.head_bytes is not None:
        lines.append(f"head      {written.head_bytes / 1e6:.1f} MB of them: a screen, and the rows it lets through")
    if written.acceptance is not None:
        lines.append(f"drafts    {written.acceptance:.1%} of their tokens accepted by the dense model")
    if dense:
        lines.append(f"dense     {_rate(dense)}")
        if dense.tokens_per_second:
            lines.append(f"sparse    {written.tokens_per_second / dense.tokens_per_second:.2f} times the dense rate")
        lines.append(f"agreement {_agreement(written.text, dense.text)}")
    return "\n".join(lines) + "\n"


def _rate(written: "Generated") -> str:
    return (
        f"{written.tokens} tokens, {written.tokens_per_second:.1f} per second, "
        f"{written.bytes_per_token / 1e6:.1f} MB of weights each"
    )


def _density(density: dict[str, float]) -> list[str]:
    """Shares of the gated weight bytes that were read, ten layers to a line."""
    layers = list(density)
    groups = [layers[first : first + PER_LINE] for first in range(0, len(layers), PER_LINE)]
    return [
        f"read      layers {group[0]} to {group[-1]}: {' '.join(f'{density[layer]:.2f}' for layer in group)}"
        for group in groups
    ]


def _agreement(one: str, other: str) -> str:
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return "the same answer" if one == other else f"the first {same} of {len(other)} letters are the dense answer's"
