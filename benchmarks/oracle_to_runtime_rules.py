"""The ways to score a layer's neurons that oracle_to_runtime.py compares: rules of the sparse model's own tokens.

The oracles and the other rules that read a gradient of the token itself are in oracle_to_runtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparseact.calibration.neurons import Neurons
from sparseact.calibration.regression import reduced_rank_regression
from sparseact.calibration.sample import Sample
from sparseact.calibration.weights import column_norms
from sparseact.masked.gate import signal_of
from sparseact.masked.selectors import topk_mask
from sparseact.recipes.gate import Signal
from sparseact.sites import Site

Rule = Callable[[Neurons, Tensor, Tensor], Tensor]
"""Scores [T, units] of a layer's neurons for the MLP's inputs [T, inputs] and the neurons h [T, units] of the sparse
model. A rule that runs does not look at h."""

Value = TypeVar("Value")

RANKS = {"1/16": 1 / 16, "1/8": 1 / 8, "1/4": 1 / 4}
CHANNELS = {"1/8": 1 / 8, "1/4": 1 / 4, "3/8": 3 / 8}


@dataclass(frozen=True)
class Method:
    """A way to score neurons.

    Attributes:
        name: unique.
        group: "oracle", "dense MLP" (needs at least h of the token), "run time" or "floor".
        rule: None where the scores come from the question's attribution.
        saves: share of the MLP's bytes that are not read, per share of the neurons that is off; for oracles
            and dense passes what the mask would save if it were known.
        reads: share of the MLP's bytes that the rule itself reads.
        fitted: whether it reads the calibration text.
    """

    name: str
    group: str
    rule: Rule | None = None
    saves: float = 1.0
    reads: float = 0.0
    fitted: bool = True

    def off(self, saved: float) -> float:
        """Share of neurons that must be off so that this share of the MLP's bytes is not read, net."""
        return (saved + self.reads) / self.saves


def rules(model: PreTrainedModel, sample: Sample, inputs: int, units: int, *, seed: int = 0) -> Iterator[Method]:
    """Everything but the oracles, fitted to a sample of what enters the MLPs, with gradients.

    Args:
        inputs, units: widths of the MLP; all layers have the same.
    """
    noise = torch.Generator().manual_seed(seed)
    norm = per_layer(lambda layer: column_norms(model, layer.site))

    def of(layer: Neurons) -> tuple[Tensor, Tensor, Tensor]:
        return sample.x[layer.inputs], sample.x[layer.site], sample.gradient[layer.site]

    gate = per_layer(lambda layer: read(model, layer.gate, of(layer)[0]))
    up = per_layer(lambda layer: read(model, up_of(layer), of(layer)[0]))

    # Floors.
    yield Method("random", "floor", lambda layer, x, h: torch.rand(h.shape, generator=noise), fitted=False)
    yield Method("static magnitude: E|h|", "floor", _static(lambda layer: of(layer)[1].abs().mean(dim=0)))
    yield Method(
        "static attribution: E|g h|", "floor", _static(lambda layer: (of(layer)[2] * of(layer)[1]).abs().mean(dim=0))
    )

    # The neurons themselves must be computed: only columns of down are saved.
    down = {"group": "dense MLP", "saves": 1 / 3}
    yield Method("|h|", rule=lambda layer, x, h: h.abs(), fitted=False, **down)
    yield Method("|h| · ‖W_down‖ (CETT)", rule=lambda layer, x, h: h.abs() * norm(layer), fitted=False, **down)
    for name, statistic in SENSITIVITIES.items():
        scale = per_layer(lambda layer, statistic=statistic: statistic(of(layer)[2]))
        yield Method(f"|h| · {name}", rule=lambda layer, x, h, scale=scale: h.abs() * scale(layer), **down)

    # act(gate) times a scale; up times a scale.
    two = {"group": "run time", "saves": 2 / 3}
    scales: dict[str, Callable[[Neurons], Tensor]] = {
        "act(gate) (CATS)": lambda layer: torch.ones(units),
        "act(gate) · RMS(up) (CHESS)": lambda layer: rms(up(layer)),
        "act(gate) · RMS(up) · ‖W_down‖": lambda layer: rms(up(layer)) * norm(layer),
        "act(gate) · RMS(up) · median|g|": lambda layer: rms(up(layer)) * SENSITIVITIES["median|g|"](of(layer)[2]),
        "act(gate) · winsorised RMS(g up)": lambda layer: winsorised_rms(of(layer)[2] * up(layer)),
    }
    for name, scale in scales.items():
        yield Method(name, rule=_scaled(model, lambda layer: layer.gate, per_layer(scale)), **two)
    by_up = per_layer(lambda layer: rms(gate(layer)) * norm(layer))
    yield Method("up (COUNTDOWN)", rule=_scaled(model, up_of, lambda layer: torch.ones(units)), fitted=False, **two)
    yield Method("up · RMS(act(gate)) · ‖W_down‖", rule=_scaled(model, up_of, by_up), **two)

    # A first look: some input channels for all neurons, the rest for those that stay on.
    for label, share in CHANNELS.items():
        look = per_layer(lambda layer, share=share: FirstLook.fit(model, layer, of(layer)[0], share))
        of_h = {"group": "run time", "saves": 1 - share * 2 / 3}
        yield Method(
            f"first look at {label} of the inputs",
            rule=lambda layer, x, h, look=look: look(layer).size(model, layer, x) * norm(layer),
            **of_h,
        )
    yield Method(
        f"first look at {label} of the inputs, without ‖W_down‖",
        rule=lambda layer, x, h, look=look: look(layer).size(model, layer, x),
        **of_h,
    )

    # act(gate) times a low-rank guess of up; low-rank predictors.
    for label, share in RANKS.items():
        rank = max(1, round(share * inputs))
        cost = (rank * (inputs + units) + units) / (3 * inputs * units)
        guess = per_layer(
            lambda layer, rank=rank: UpGuess.fit(of(layer)[0], up(layer), rms(gate(layer)) * norm(layer), rank)
        )
        yield Method(
            f"act(gate) · rank-{label} guess of up",
            rule=lambda layer, x, h, guess=guess: read(model, layer.gate, x).abs() * guess(layer).size(x) * norm(layer),
            reads=cost,
            **two,
        )
        for target, importance in {
            "activation": lambda layer: of(layer)[1] * norm(layer),
            "attribution": lambda layer: of(layer)[1] * of(layer)[2],
        }.items():
            fit = per_layer(
                lambda layer, rank=rank, importance=importance: reduced_rank_regression(
                    of(layer)[0], share_of_mean(importance(layer).abs()), rank
                )
            )
            yield Method(
                f"rank-{label} predictor of {target}",
                "run time",
                lambda layer, x, h, fit=fit: predict(fit(layer), x),
                reads=cost,
            )
    rank = max(1, inputs // 8)
    on = per_layer(
        lambda layer: reduced_rank_regression(
            of(layer)[0], topk_mask((of(layer)[1] * norm(layer)).abs(), 0.5).float(), rank
        )
    )
    cost = (rank * (inputs + units) + units) / (3 * inputs * units)
    yield Method(
        "rank-1/8 predictor of who is on at 50%", "run time", lambda layer, x, h: predict(on(layer), x), reads=cost
    )


def per_layer(function: Callable[[Neurons], Value]) -> Callable[[Neurons], Value]:
    """The function, computed once for each layer."""
    known: dict[Site, Value] = {}

    def cached(layer: Neurons) -> Value:
        if layer.site not in known:
            known[layer.site] = function(layer)
        return known[layer.site]

    return cached


@torch.no_grad()
def read(model: PreTrainedModel, signal: Signal, x: Tensor) -> Tensor:
    """An output signal for a linear's inputs [..., inputs], past the hooks that the linear has while the model runs."""
    linear: Any = model.get_submodule(signal.module)
    return signal_of(signal, linear.forward(x))


def up_of(layer: Neurons) -> Signal:
    """Up of a gated MLP."""
    assert layer.up is not None, "the models of this benchmark have gated MLPs"
    return layer.up


def rms(values: Tensor) -> Tensor:
    """sqrt(E[v²]) over tokens."""
    return values.square().mean(dim=0).sqrt()


def winsorised_rms(values: Tensor) -> Tensor:
    """RMS over tokens, a token's size cut at the layer's 99% quantile: some tokens' gradients drown the rest."""
    size = values.norm(dim=1, keepdim=True)
    return rms(values * (size.quantile(0.99) / size.clamp(min=1e-12)).clamp(max=1))


SENSITIVITIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "E|g|": lambda g: g.abs().mean(dim=0),
    "median|g|": lambda g: g.abs().median(dim=0).values,
    "winsorised RMS(g)": winsorised_rms,
}


def share_of_mean(score: Tensor) -> Tensor:
    """A token's scores in units of their mean."""
    return score / score.mean(dim=1, keepdim=True).clamp(min=1e-12)


def predict(predictor: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """B A x + b."""
    A, B, bias = predictor
    return (x @ A.mT) @ B.mT + bias


def _static(scores: Callable[[Neurons], Tensor]) -> Rule:
    once = per_layer(scores)
    return lambda layer, x, h: once(layer).expand_as(h)


def _scaled(model: PreTrainedModel, signal: Callable[[Neurons], Signal], scale: Callable[[Neurons], Tensor]) -> Rule:
    return lambda layer, x, h: read(model, signal(layer), x).abs() * scale(layer)


@dataclass(frozen=True)
class UpGuess:
    """A low-rank guess of up, and how far it is off: E[up² | guess] = guess² + error²; rank 0 is CHESS."""

    predictor: tuple[Tensor, Tensor, Tensor]
    weight: Tensor
    error: Tensor

    @classmethod
    def fit(cls, x: Tensor, up: Tensor, weight: Tensor, rank: int) -> UpGuess:
        """The best rank for errors weighed by `weight` [units], what a neuron does to the output per unit of up."""
        weight = weight.clamp(min=1e-12)
        predictor = reduced_rank_regression(x, up * weight, rank, ridge=0.01)  # up is linear in x: no noise to smooth
        return cls(predictor, weight, rms(up - predict(predictor, x) / weight))

    def size(self, x: Tensor) -> Tensor:
        """sqrt(E[up²]) [T, units]."""
        return ((predict(self.predictor, x) / self.weight).square() + self.error.square()).sqrt()


@dataclass(frozen=True)
class FirstLook:
    """h guessed from a token's largest inputs, whose columns of gate and up are read for all neurons.

    E[h²] = (act(ĝ)² + error_g²) (û² + error_u²); the other columns are read for the neurons that stay on.
    """

    share: float
    gate_error: Tensor
    up_error: Tensor

    @classmethod
    def fit(cls, model: PreTrainedModel, layer: Neurons, x: Tensor, share: float) -> FirstLook:
        """How far the guesses are off on a sample."""
        some = x * topk_mask(x.abs(), 1 - share)
        errors = [rms(read(model, signal, x) - read(model, signal, some)) for signal in (layer.gate, up_of(layer))]
        return cls(share, *errors)

    def size(self, model: PreTrainedModel, layer: Neurons, x: Tensor) -> Tensor:
        """sqrt(E[h²]) [T, units]."""
        some = x * topk_mask(x.abs(), 1 - self.share)
        gate, up = (read(model, signal, some) for signal in (layer.gate, up_of(layer)))
        return ((gate.square() + self.gate_error.square()) * (up.square() + self.up_error.square())).sqrt()
