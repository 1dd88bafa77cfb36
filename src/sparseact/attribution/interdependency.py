"""How far attribution scores depend on each other: what switching units off does to the others' scores.

The attribution of a unit is its gradient x output, a_i = -<g_i, x_i>; S(F, X) is the sum over the units
X of a site (Song et al. 2024, section 3). Two measurements, both exact for the model as it is:

- `changes`: all but the best units of every layer are off. How much do the attributions of those that
  are on change? Per layer, sum |a'_i - a_i| / sum |a_i| over tokens and units that are on (the paper's
  figure 5 shows such a change in percent).
- `cases`: one unit i of layer L1 is off at one token. The error of inter-layer dependency is the change
  of the next layer's summed attribution, |S(F, Y) - S(F, Y~)|. Lemma 3.1 bounds it by
  |S(F, X) - S(F, X~)|, Theorem 3.3 by |x_i| ||g||_2, assuming that the gradients g of L1 stay as they are.
  `later_error` is the largest change of any later layer, to be held against the same bounds. (The statement of
  the paper's Lemma 3.2 is not known to us; what is measured beyond the next layer is this.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparseact.attribution.assumption import check_assumption
from sparseact.attribution.interdependency_result import Case, Change, Interdependency, ratio
from sparseact.attribution.one_pass import Attribution, attribute_in_one_pass
from sparseact.attribution.scores import Scores
from sparseact.errors import InputError
from sparseact.masked.decoding import Prefix, evaluation_mode, prefill
from sparseact.masked.selectors import topk_mask
from sparseact.sites import Site, find_sites, on_units

SPARSITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RUNS_AT_ONCE = 16


@torch.inference_mode(mode=False)
def measure_interdependency(
    model: PreTrainedModel,
    scores: Scores,
    *,
    sparsity: Sequence[float] = SPARSITY,
    cases: int = 128,
    seed: int = 0,
) -> Interdependency:
    """Measure how the attributions of one prompt's tokens change when units are switched off.

    Neurons and heads are measured apart, those that `scores` holds.

    Args:
        model: the one that was scored.
        scores: rank the units; its prompt and label are what runs.
        sparsity: levels at which `changes` are measured.
        cases: number of random (layer, token, unit) per kind; they cost one attribution each.
        seed: draws the cases.

    Raises:
        InputError: the model has fewer than two layers, so none is next to another.
    """
    sites = [site for site in find_sites(model) if site.name in scores.values]
    if len({site.layer for site in sites}) < 2:
        raise InputError(f"{type(model).__name__}: interdependency needs at least two layers")
    check_assumption(model, sites)  # before units are masked
    random = torch.Generator().manual_seed(seed)
    changes: list[Change] = []
    sampled: list[Case] = []
    with evaluation_mode(model):
        prefix = prefill(model, scores.prompt_tokens[None].to(model.device))
        label = scores.tokens[None].to(model.device)
        for kind in dict.fromkeys(site.kind for site in sites):
            of_kind = [site for site in sites if site.kind == kind]
            changes += _changes(model, of_kind, prefix, label, scores, sparsity)
            sampled += _cases(model, of_kind, prefix, label, cases, random)
    return Interdependency(changes, sampled)


def _changes(
    model: PreTrainedModel,
    sites: Sequence[Site],
    prefix: Prefix,
    label: Tensor,
    scores: Scores,
    sparsity: Sequence[float],
) -> Iterator[Change]:
    """Row b of the batch runs dense (b = 0) or at level b - 1."""
    keep = {
        site: torch.stack([torch.ones_like(score, dtype=torch.bool), *(topk_mask(score, level) for level in sparsity)])
        for site in sites
        for score in [scores[site.name].to(label.device)]
    }
    found = _attribute_masked(model, sites, prefix, label, keep)
    for row, level in enumerate(sparsity, start=1):
        for site in sites:
            attributions, on = attribution(found, site), keep[site][row]
            before, after = attributions[0][on], attributions[row][on]
            change = ratio(float((after - before).abs().sum()), float(before.abs().sum()))
            yield Change(site.kind, level, site.layer, change)


def _cases(
    model: PreTrainedModel, sites: Sequence[Site], prefix: Prefix, label: Tensor, count: int, random: torch.Generator
) -> Iterator[Case]:
    """Row 0 of each batch runs dense; each other row has one unit off at one step."""
    steps = label.shape[1]
    layers, at, draws = (
        torch.randint(high, (count,), generator=random).tolist() for high in (len(sites) - 1, steps, sites[0].units)
    )
    drawn = list(zip(layers, at, draws, strict=True))
    for start in range(0, count, RUNS_AT_ONCE):
        part = drawn[start : start + RUNS_AT_ONCE]
        keep = {site: torch.ones(len(part) + 1, steps, site.units, dtype=torch.bool) for site in sites}
        for row, (layer, step, unit) in enumerate(part, start=1):
            keep[sites[layer]][row, step, unit] = False
        found = _attribute_masked(model, sites, prefix, label, keep)
        for row, (layer, step, unit) in enumerate(part, start=1):
            yield _case(found, sites[layer], sites[layer + 1 :], row, step, unit)


def _case(found: Attribution, site: Site, later: Sequence[Site], row: int, step: int, unit: int) -> Case:
    gradient = found.gradient[site][:, step].double()
    norm = float(gradient[0].norm())
    sums = torch.stack([attribution(found, s)[:, step].sum(dim=-1) for s in (site, *later)])
    own, *errors = (sums[:, row] - sums[:, 0]).abs().tolist()
    return Case(
        site.kind,
        site.layer,
        step,
        unit,
        error=errors[0],
        later_error=max(errors),
        lemma=own,
        theorem=float(found.x[site][0, step, unit].double().norm()) * norm,
        gradient_change=ratio(float((gradient[row] - gradient[0]).norm()), norm),
    )


def attribution(found: Attribution, site: Site) -> Tensor:
    """Every unit's -<g, x>, [batch, T, units] in float64: to first order the loss that its absence adds."""
    return -(found.gradient[site].double() * found.x[site].double()).sum(dim=-1)


def _attribute_masked(
    model: PreTrainedModel, sites: Sequence[Site], prefix: Prefix, label: Tensor, keep: dict[Site, Tensor]
) -> Attribution:
    """Attribute one run per row of `keep`, bool [runs, T, units] by site."""
    runs = len(next(iter(keep.values())))

    def mask(site: Site, x: Tensor) -> Tensor:
        return x * keep[site].to(x.device).unsqueeze(-1)

    with on_units(model, sites, mask):  # outside, so that what is attributed is masked already
        return attribute_in_one_pass(model, sites, prefix.repeat(runs), label.repeat(runs, 1))
