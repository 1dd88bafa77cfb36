"""Two slower ways to the same scores, the published loop and a loop over tokens with a cache; and a wrong one.

`published_loop` keeps the structure of the authors' release (github.com/pittisl/Sparse-Activation,
attribution_{mlp,attention}.py, Mag_{mlp,attention}.py), not its code: per layer and kind of unit it
generates the answer once for the gradient and once for gradient x output, each token costing a
forward for the outputs, a second forward and a backward; one generation per kind gives the
magnitudes. As there, nothing runs under `no_grad`, the first step reads the whole prompt, and each
forward gets a cache of its own made from the last step's tensors. Only the tokens that are read are
fixed to the label here, so that rounding cannot make two implementations score different texts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from sparseact.attribution import make_metric, score_sites
from sparseact.masked.decoding import prefill, teacher_force
from sparseact.sites import Site, capture

CORRECTION = 0.5


def published_loop(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor, label: Tensor) -> dict[Site, Tensor]:
    """Corrected GxO [T, units] of every site by the published structure. ids: [1, P]; label: [1, T]."""
    magnitude = published_magnitude(model, sites, ids, label)
    return {site: published_site(model, site, ids, label, magnitude[site]) for site in sites}


def published_magnitude(
    model: PreTrainedModel, sites: Sequence[Site], ids: Tensor, label: Tensor
) -> dict[Site, Tensor]:
    """||x|| [T, units] of every site: one generation per kind of unit."""
    magnitude = {}
    for kind in sorted({site.kind for site in sites}):
        of_kind = [site for site in sites if site.kind == kind]
        steps = []
        with capture(model, of_kind) as x:
            for tokens, cache in _steps(model, ids, label):
                _forward(model, tokens, cache)
                steps.append({site: x[site][0, -1].detach().norm(dim=-1) for site in of_kind})
        magnitude |= {site: torch.stack([step[site] for step in steps]) for site in of_kind}
    return magnitude


def published_site(model: PreTrainedModel, site: Site, ids: Tensor, label: Tensor, magnitude: Tensor) -> Tensor:
    """Corrected GxO [T, units] of one site: two generations, as the release has no shared one."""
    gradient = _regenerate(model, site, ids, label, times_output=False).mean(dim=-1)
    gxo = _regenerate(model, site, ids, label, times_output=True).mean(dim=-1)
    return -gxo + CORRECTION * magnitude * gradient.norm(dim=-1, keepdim=True)


def _regenerate(model: PreTrainedModel, site: Site, ids: Tensor, label: Tensor, *, times_output: bool) -> Tensor:
    """The loss's gradient, or gradient x output, [T, units, size] at one site."""
    found = []
    with capture(model, [site], gradient=True) as captured:
        for step, (tokens, cache) in enumerate(_steps(model, ids, label)):
            _forward(model, tokens, _fork(cache))  # the release's first forward is for the output alone
            output = captured[site][0, -1]
            logits = _forward(model, tokens, cache)[:, -1]
            loss = cross_entropy(logits, label[:, step])
            (gradient,) = torch.autograd.grad(loss, [captured[site]])
            own = gradient[0, -1]
            found.append((own * output).detach() if times_output else own)
    return torch.stack(found)


def _steps(model: PreTrainedModel, ids: Tensor, label: Tensor) -> Iterator[tuple[Tensor, DynamicCache]]:
    """What each step reads, and the cache it continues."""
    cache = DynamicCache(config=model.config)
    yield ids, cache
    for step in range(label.shape[1] - 1):
        yield label[:, step : step + 1], cache


def _forward(model: PreTrainedModel, tokens: Tensor, cache: DynamicCache) -> Tensor:
    return model(input_ids=tokens, past_key_values=cache, use_cache=True).logits


def _fork(cache: DynamicCache) -> DynamicCache:
    """A cache that grows on its own: the tensors are shared, and growing replaces them."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def cached_loop(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor, label: Tensor) -> dict[Site, Tensor]:
    """Corrected GxO [T, units] of every site: one forward and one backward per token for all sites."""
    prefix = prefill(model, ids)
    tokens = torch.cat([prefix.last, label[:, :-1]], dim=1)
    outputs, gradients = [], []
    with capture(model, sites, gradient=True) as captured:
        for step in range(label.shape[1]):
            logits = _forward(model, tokens[:, step : step + 1], prefix.cache)[:, -1]
            loss = cross_entropy(logits, label[:, step])
            order = [captured[site] for site in sites]
            gradients.append(dict(zip(sites, torch.autograd.grad(loss, order), strict=True)))
            outputs.append({site: captured[site].detach() for site in sites})
            for layer in prefix.cache.layers:  # or the graph of all earlier steps stays alive
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
    return _corrected_gxo(_along_steps(outputs), _along_steps(gradients))


def uncut_pass(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor, label: Tensor) -> dict[Site, Tensor]:
    """What one pass gives if gradients may cross positions: a unit is charged for all later tokens too. Wrong."""
    with capture(model, sites, gradient=True) as captured:
        logits = teacher_force(model, prefill(model, ids), label)
        loss = cross_entropy(logits[0], label[0], reduction="sum")
        gradients = torch.autograd.grad(loss, [captured[site] for site in sites])
    outputs = {site: captured[site].detach() for site in sites}
    return _corrected_gxo(outputs, dict(zip(sites, gradients, strict=True)))


def _corrected_gxo(x: Mapping[Site, Tensor], gradient: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    return {site: score[0] for site, score in score_sites(make_metric("corrected-gxo"), x, gradient).items()}


def _along_steps(steps: Sequence[Mapping[Site, Tensor]]) -> dict[Site, Tensor]:
    return {site: torch.cat([step[site] for step in steps], dim=1) for site in steps[0]}
