"""A small stand-in for the head of the model, which tells the tokens that can be the likeliest from those that cannot.

The head's input x has a few directions in which it varies much. The screen has the head's weights
along those, in 4 bits: a third of the bytes of a head in 8 bits. With the mean m of x, an orthonormal basis B of the
leading directions, and the head W, the logits W x are about

    W m + quantised(W B^T) B (x - m).

What that leaves out is, for a token drawn from the vocabulary, a number of the size

    sigma = sqrt(a^2 |rest of x - m|^2 + b^2 |B (x - m)|^2)

with the spread a of the weights W along the other directions, and the size b of the rounding's errors.
Tokens whose approximate logit is within `SIGMAS` sigma of the highest are computed exactly (`screened`). So sigma
grows with all that the basis does not fit: text unlike that which it was made from costs more bytes,
not other tokens.

To look at leading directions first is from Shim et al. 2017, SVD-softmax; there they are those of the weights, and
the number of candidates is fixed. Those of the weights alone do not serve: the spread of x counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparseact.engine.forward.model import Model
from sparseact.engine.quant.arena import Linear
from sparseact.models.architecture import Architecture
from sparseact.models.formats import BLOCK, Floats, dequantise, joined, quantise

SCREEN = ("screen", "screen.basis")
"""Names of the screen's linears."""
SIGMAS = 6.0
"""Width of the margin: at 6, fewer than 1 token in 1000 differs (benchmarks/head_screening.py)."""
TEXTS, TOKENS = 12, 64
"""Texts that the model writes by itself to find the directions, and the tokens of each."""
SHARE = 0.6
"""Of the directions that the screen has."""
ROWS_AT_ONCE = 16384
"""Tokens of the vocabulary that are screened at once when the screen is made."""


def room_for_screen(architecture: Architecture) -> tuple[tuple[Linear, ...], dict[str, Floats]]:
    """The linears of a screen, and its vectors, all zeros."""
    vocabulary, hidden = architecture.vocabulary, architecture.hidden
    kept = min(hidden, BLOCK * max(1, round(SHARE * hidden / BLOCK)))
    linears = (
        Linear("screen", "q4", "panels", vocabulary, kept),
        Linear("screen.basis", "bf16", "panels", kept, hidden),
    )
    sizes = {"screen.bias": vocabulary, "screen.basis.bias": kept, "screen.mean": hidden}
    return linears, {name: np.zeros(size, np.float32) for name, size in sizes.items()}


def write_texts(
    step: Callable[[int], Floats], reset: Callable[[], None], x: Floats, first: int, context: int
) -> Floats:
    """Inputs of the head [TEXTS * tokens, hidden] in texts that the model draws from its own distribution.

    Args:
        step: adds a token, and gives the logits of the next one.
        reset: begins a new text.
        x: the input of the head in the last step.
        first: token that each text begins with.
        context: tokens that a text can have.
    """
    random = np.random.default_rng(0)
    found = []
    for _ in range(TEXTS):
        reset()
        token = first
        for _ in range(min(TOKENS, context)):
            logits = step(token)
            found.append(x.copy())
            likely = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
            token = int(np.searchsorted(likely, random.random() * likely[-1], side="right").clip(max=len(logits) - 1))
    reset()
    return np.stack(found)


def fill_screen(model: Model, head: str, inputs: Floats, sigmas: float = SIGMAS) -> tuple[float, float]:
    """Make the screen of a head, at its place in the model.

    Args:
        model: with room for a screen.
        head: canonical name of the head.
        inputs: of the head [tokens, hidden].
        sigmas: width of the margin.

    Returns:
        Factors of the margin: of the rest of the input, and of its coordinates.
    """
    screen, basis = (model.arena.linears[model.numbers[name]] for name in SCREEN)
    mean = inputs.mean(0)
    _, directions = np.linalg.eigh(np.cov(inputs, rowvar=False, dtype=np.float64))
    stored = quantise(np.ascontiguousarray(directions.T[::-1][: screen.inputs], np.float32), basis.format)
    kept = dequantise(stored)

    bias, parts = model.vector("screen.bias", screen.outputs), []
    sums, squares = np.zeros((2, screen.inputs + basis.inputs))
    error = 0.0
    for first in range(0, screen.outputs, ROWS_AT_ONCE):
        rows = model.weight(head, first, min(first + ROWS_AT_ONCE, screen.outputs))
        along = rows @ kept.T
        bias[first : first + len(rows)] = rows @ mean
        both = np.concatenate([along, rows], axis=1)
        sums += both.sum(0, dtype=np.float64)
        squares += np.square(both).sum(0, dtype=np.float64)
        parts.append(quantise(along, screen.format))
        error += np.square(dequantise(parts[-1]) - along).sum(dtype=np.float64)
    variances = squares / screen.outputs - np.square(sums / screen.outputs)
    left_out = variances[screen.inputs :].sum() - variances[: screen.inputs].sum()
    spread = max(left_out, 0.0) / max(basis.inputs - screen.inputs, 1)
    if "head.bias" in model.offsets:
        bias += model.vector("head.bias", screen.outputs)
    model.vector("screen.basis.bias", screen.inputs)[:] = -(kept @ mean)
    model.vector("screen.mean", basis.inputs)[:] = mean
    model.arena.store(model.numbers["screen"], joined(parts))
    model.arena.store(model.numbers["screen.basis"], stored)
    return sigmas * spread**0.5, sigmas * (error / (screen.outputs * screen.inputs)) ** 0.5
