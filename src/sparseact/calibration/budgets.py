"""Budgets: how sparse each site is, so that together they save the share of bytes that was asked for.

Every budget returns one sparsity per site with sum(bytes * sparsity) = target * sum(bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparseact.calibration.sample import Sample
from sparseact.masked.selectors import quantiles
from sparseact.recipes.gate import Gate
from sparseact.recipes.selectors import keep_count
from sparseact.sites import LAYOUTS, Site

Budget = Callable[[Sequence[Gate], Sample, float], dict[Site, float]]
"""Sparsity by site from the gates, the calibration sample and the target."""

LEVELS = torch.linspace(0, 1, 21)
"""Levels at which a site's loss is estimated; between them it is interpolated."""


def uniform(gates: Sequence[Gate], sample: Sample, target: float) -> dict[Site, float]:  # noqa: ARG001 - a budget
    """The same sparsity everywhere."""
    return {gate.site: target for gate in gates}


def type_split(
    gates: Sequence[Gate],
    sample: Sample,  # noqa: ARG001 - a budget
    target: float,
    *,
    inputs: float = 0.8,
) -> dict[Site, float]:
    """Linears that read the residual stream at `inputs` times the target, the others at what is left.

    LaRoSA (arXiv 2507.01299) has .8 and 1.2 in its code, which misses the target; here the second
    factor is what makes the total exact.
    """
    sites = [gate.site for gate in gates]
    outputs = {site for site in sites if _reads_inside(site)}
    first = sum(_bytes(site) for site in sites if site not in outputs)
    second = sum(_bytes(site) for site in outputs)
    if not second:
        return dict.fromkeys(sites, target)
    # Where the outputs would have to be sparser than 1, the inputs take what is left.
    on_inputs = max(inputs * target, (target * (first + second) - second) / first)
    on_outputs = (target * (first + second) - on_inputs * first) / second
    return {site: on_outputs if site in outputs else on_inputs for site in sites}


def whole_heads(
    gates: Sequence[Gate],
    sample: Sample,  # noqa: ARG001 - a budget
    target: float,
    *,
    heads: float,
) -> dict[Site, float]:
    """Heads at `heads` times the target, in whole heads; neurons at what is left, so that the total is exact."""
    sites = [gate.site for gate in gates]
    count = next(site.units for site in sites if site.kind == "heads")  # in every layer
    of_heads = sum(_bytes(site) for site in sites if site.kind == "heads")
    of_neurons = sum(_bytes(site) for site in sites if site.kind == "mlp")
    saved = target * (of_heads + of_neurons)
    # Where the neurons would have to be sparser than 1, the heads take what is left.
    level = max(heads * target, (saved - of_neurons) / of_heads)
    on_heads = 1 - keep_count(count, level) / count
    on_neurons = min(max((saved - on_heads * of_heads) / of_neurons, 0.0), 1.0)
    return {site: on_heads if site.kind == "heads" else on_neurons for site in sites}


_READ_INSIDE = {
    *(name.rpartition(".")[2] for layout in LAYOUTS for name in (layout.attention_out, layout.mlp_out)),
    *("linear_right", "per_layer_projection"),  # of Gemma 3n and 4, beside attention and MLP
}
"""Linears by their own names that read what is made inside a block."""


def _reads_inside(site: Site) -> bool:
    """Whether a linear reads heads or neurons and not the residual stream."""
    return site.module.rpartition(".")[2] in _READ_INSIDE


def least_loss(gates: Sequence[Gate], sample: Sample, target: float) -> dict[Site, float]:
    """Equal loss per byte everywhere: the estimated loss of the whole model is least for the bytes saved.

    Switching off the set D at a site changes a token's loss by delta = sum_D g (x - shift) to first order; with g
    of labels drawn from the model itself, E[delta^2] / 2 is the KL divergence to second order (the
    Fisher information). One backward pass gives it for every site and level.

    Args:
        sample: must hold gradients; the gates' signals are the inputs of their own linears.
    """
    sites = [gate.site for gate in gates]
    curves = [
        expected_loss(gate.score(x), sample.gradient[gate.site] * (x if gate.shift is None else x - gate.shift))
        for gate in gates
        for x in [sample.x[gate.site]]
    ]
    return _allocate(sites, torch.stack(curves), target)


def expected_loss(scores: Tensor, attribution: Tensor) -> Tensor:
    """Estimated KL (nats per token) at each of `LEVELS` when low scores [tokens, units] are dropped.

    The square of each token's change is winsorised at its 99% quantile: a few tokens would decide alone.
    """
    cuts = quantiles(scores, LEVELS[1:].tolist())
    first = torch.bucketize(scores, cuts).clamp(max=len(cuts) - 1)  # the lowest level that drops the unit
    change = attribution.new_zeros(len(scores), len(cuts)).scatter_add_(1, first, attribution).cumsum(dim=1)
    loss = change.square()
    loss = loss.clamp(max=loss.quantile(0.99, dim=0)).mean(dim=0) / 2
    return torch.cat([loss.new_zeros(1), loss]).cummax(dim=0).values


def _allocate(sites: Sequence[Site], curves: Tensor, target: float) -> dict[Site, float]:
    """Minimise the sum of curves [sites, levels] at the target: bisect the price of a byte."""
    sizes = torch.tensor([_bytes(site) for site in sites], dtype=torch.float64)
    curves, levels = curves.double(), LEVELS.double()

    def at(price: float) -> Tensor:
        return levels[(curves - price * levels * sizes[:, None]).argmin(dim=1)]

    def share(level: Tensor) -> float:
        return float((level * sizes).sum() / sizes.sum())

    low, high = 1e-30, 1e6
    for _ in range(300):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(at(middle)) < target else (low, middle)
    below, above = at(low), at(high)
    weight = (target - share(below)) / max(share(above) - share(below), 1e-12)
    chosen = below + (above - below) * min(max(weight, 0.0), 1.0)
    return {site: float(level) for site, level in zip(sites, chosen, strict=True)}


def _bytes(site: Site) -> float:
    return site.units * site.unit_bytes
