"""The rule of one linear whose inputs are switched off: what the prefill applies in NumPy, and the step is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparseact.engine.forward.entries import select_rows
from sparseact.engine.forward.neurons import activate
from sparseact.engine.forward.state import BY_GATE, BY_GUESS, BY_INPUT, BY_ROUTER, BY_UP
from sparseact.models.architecture import Activation
from sparseact.models.formats import Array, Floats
from sparseact.recipes.gate import score
from sparseact.recipes.selection import Selection

MADE_BY = {"down": ("gate", "up"), "o": ("q",)}
"""The linears whose rows make the inputs of another one, so that they are not needed for those that are off."""

Guess = Callable[[str], Floats]
"""Of a linear's short name, what it puts out by its high plane [tokens, outputs]."""


@dataclass(frozen=True)
class Gating:
    """The rule of one linear: which inputs are on by their scores |signal - shift| * scale.

    The shift is the inputs', and is part of the score where they, or guesses of them, are the signal.

    Attributes:
        selection: by which scores are on.
        scale, shift: [inputs], or None for 1 and 0. An input that is off counts as its shift.
        choice: what the signal is: the input itself, or of a `down` what its neurons are chosen by (`BY_GATE`, ...);
            of an `o` whose heads the prompt chooses, `BY_PROMPT`.
        predictor: ([rank, hidden], [neurons, rank], bias [neurons]) of the signal, a sigmoid, if it is predicted.
        router: ([blocks, hidden], bias [blocks]) of a signal that is a sigmoid for each block.
        order: of the neurons, such that the blocks of the router lie one after the other; the weights are read in it,
            and scale and shift have it.
        block: neurons of a block; the last one may have fewer.
        level: share of the inputs that the rule was fitted to switch off; 1 if that is not known.
    """

    selection: Selection
    scale: Floats | None
    shift: Floats | None
    choice: int = BY_INPUT
    predictor: tuple[Floats, Floats, Floats] | None = None
    router: tuple[Floats, Floats] | None = None
    order: tuple[int, ...] = ()
    block: int = 0
    level: float = 1.0

    def keep(
        self, x: Floats, outputs: Mapping[str, Floats], activation: Activation, guess: Guess | None = None
    ) -> Floats:
        """The inputs x [tokens, inputs] with those that are off replaced, as the compiled step does. See `scores`."""
        on = self.on(self.scores(x, outputs, activation, guess))
        return np.where(on, x, np.float32(0) if self.shift is None else self.shift)

    def scores(
        self, x: Floats, outputs: Mapping[str, Floats], activation: Activation, guess: Guess | None = None
    ) -> Floats:
        """What decides about the inputs [tokens, inputs].

        Args:
            x: the inputs.
            outputs: of the layer's linears so far, by short name, and the MLP's input as `mlp`.
            activation: of the neurons.
            guess: what linears of the layer put out by their high planes, by short name, for `BY_GUESS`.
        """
        signal = x
        if self.choice == BY_GATE:
            signal = activate(outputs["gate"], activation)
        elif self.choice == BY_UP:
            signal = outputs["up"]
        elif self.choice == BY_GUESS and guess is not None:
            signal = activate(guess("gate"), activation) * guess("up")
        elif self.predictor is not None:
            down, up, bias = self.predictor
            signal = _sigmoid((outputs["mlp"] @ down.T) @ up.T + bias)
        elif self.choice == BY_ROUTER and self.router is not None:
            weight, bias = self.router
            by_block = _sigmoid(outputs["mlp"] @ weight.T + bias)
            signal = np.repeat(by_block, self.block, axis=-1)[:, : x.shape[-1]]
        return score(signal, self.shift if self.choice in {BY_INPUT, BY_GUESS} else None, self.scale)

    def on(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """Which inputs are on by their scores [tokens, inputs], which may be overwritten."""
        on, rule = np.empty(scores.shape, np.bool_), self.selection
        select_rows(rule.rule, float(rule.number), rule.group, rule.keep, scores, on)
        return on


def _sigmoid(x: Array) -> Floats:
    found: Floats = np.exp(-np.logaddexp(np.float32(0), -x))
    return found
