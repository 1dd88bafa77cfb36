"""An outlook as one screen of text."""

from __future__ import annotations

from textwrap import wrap

from sparseact.bench.report import aligned
from sparseact.feasibility.candidates import POLICIES
from sparseact.feasibility.losses import Loss
from sparseact.feasibility.outlook import LAYER_LEVEL, Outlook
from sparseact.feasibility.speed import Speed
from sparseact.feasibility.training import SOURCE, in_words

PER_LINE, WIDTH = 10, 118

RULES = {"gate": "the gate decides", "guess": "a guess by half the bits", "inputs": "inputs of all linears"}


def as_text(outlook: Outlook, *, model: str, dtype: str, threads: int) -> str:
    """What was found, for a reader."""
    rows = [["", "off", "perplexity", "KL", "tokens/s", "MB/token", "training"]]
    for place, (off, loss) in enumerate(outlook.oracle.items()):
        rows.append(["" if place else "ORACLE, exact neurons: no method", f"{off:.0%}", *_loss(loss), "", "", ""])
    said: set[str] = set()
    for (rule, off), loss in outlook.rules.items():
        needed = in_words(outlook.training[rule, off]) if (rule, off) in outlook.training else ""
        name = "" if rule in said else f"{RULES[rule]} ({POLICIES[rule].name})"
        said.add(rule)
        rows.append([name, f"{off:.0%}", *_loss(loss), *_speed(outlook.speed.get((rule, off))), needed])
    cells = [f"{layer:3d} {kl:.4f}" for layer, kl in enumerate(outlook.oracle_layers)]
    layers = ["  ".join(cells[first : first + PER_LINE]) for first in range(0, len(cells), PER_LINE)]
    note = (
        f"Perplexity is over the dense model's, {outlook.perplexity:.2f} on {outlook.tokens} tokens that nothing was "
        "calibrated on; KL in nats per token; tokens/s over the dense engine's, measured on random weights of this "
        f"shape. Training: the order of tokens of distillation until x{outlook.target:g}, extrapolated from {SOURCE}."
    )
    title = f"{model} ({outlook.family}): {_dense(outlook, dtype)}{threads} thread(s)"
    lines = [
        f"{title}; the MLPs are {outlook.mlp_share:.0%} of a token's bytes",
        "",
        *aligned(rows),
        "",
        f"ORACLE by layer: KL of one layer alone, {LAYER_LEVEL:.0%} of its neurons off",
        *layers,
        "",
        *wrap(note, WIDTH),
    ]
    if any(speed.disturbed for speed in outlook.speed.values()):
        lines.append("Other programs wanted the processors meanwhile: the speeds are less certain than they look.")
    if outlook.no_speed:
        lines.append(f"No speed: {outlook.no_speed}")
    return "\n".join([*lines, "", *wrap(f"Verdict: {outlook.verdict}", WIDTH)])


def _dense(outlook: Outlook, dtype: str) -> str:
    for speed in outlook.speed.values():
        return f"{speed.dense.median:.1f} tokens/s dense at {dtype}, {speed.bytes_dense / 1e6:.0f} MB/token, "
    return ""


def _loss(loss: Loss) -> list[str]:
    return [f"x{loss.factor:.3f}", f"{loss.kl:.3f}"]


def _speed(speed: Speed | None) -> list[str]:
    if speed is None:
        return ["", ""]
    ratio = speed.ratio
    return [f"x{ratio.median:.2f} [{ratio.least:.2f}, {ratio.most:.2f}]", f"{speed.bytes / 1e6:.0f}"]
