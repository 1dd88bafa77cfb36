"""Is it worth it? A ceiling, what calibrated rules keep, their speed here, and what training would take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.feasibility.candidates import POLICIES, at_level, calibrate_all, of_policy, oracle_gates
from sparseact.feasibility.losses import Loss, Ruler
from sparseact.feasibility.speed import Speed, speeds_of
from sparseact.feasibility.training import in_words, tokens_needed
from sparseact.models.weights import open_weights
from sparseact.sites import find_sites, weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sparseact.recipes.recipe import Recipe

Tried = tuple[str, float]
"""A rule of `POLICIES` and the share that is off."""

LEVELS: Final = (0.5, 0.7, 0.8)
LAYER_LEVEL: Final = 0.7
INPUTS_LEVEL: Final = 0.4
LEAST_SPEED: Final = 1.05
"""Over the dense engine's: less is within what the machine's own speed drifts."""
MOST_TOKENS: Final = 20_000_000
"""Of training that a user may afford on a laptop: days."""
LAYER_TOKENS: Final = 128
"""That each layer alone is measured on: there are many of them."""
CALIBRATED: Final = 3_000
"""Characters of the text's first half that rules are calibrated on, about 600 tokens."""


@dataclass(frozen=True)
class Outlook:
    """What was found. Perplexities are factors over the dense model's.

    Attributes:
        family: of the model.
        perplexity: of the dense model on the text.
        tokens: of the text that losses were measured on.
        target: the factor that is wanted.
        mlp_share: of the bytes that a token reads, those of the MLPs.
        oracle: by the share of neurons off: the ceiling for masks on untrained weights. Not a method.
        oracle_layers: KL of each layer alone at 70% off, by the oracle.
        rules: what each rule costs, by its name and the share off: of neurons, or with `inputs` of all linears' bytes.
        speed: of the rules that the engine runs; empty where it does not run the family, for the reason `no_speed`.
        training: tokens until `target` with each rule on neurons: an order of magnitude.
        verdict: in one line.
    """

    family: str
    perplexity: float
    tokens: int
    target: float
    mlp_share: float
    oracle: Mapping[float, Loss]
    oracle_layers: tuple[float, ...]
    rules: Mapping[Tried, Loss]
    speed: Mapping[Tried, Speed]
    no_speed: str
    training: Mapping[Tried, float]
    verdict: str

    def as_record(self) -> dict[str, Any]:
        """For JSON: keys are strings, such as `gate 0.5`."""
        record = asdict(self)
        record["oracle"] = {f"{off:g}": loss for off, loss in record["oracle"].items()}
        for name in ("rules", "speed", "training"):
            record[name] = {f"{rule} {off:g}": value for (rule, off), value in record[name].items()}
        return record


def check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    max_perplexity_increase: float = 0.03,
    tokens: int = 512,
    dtype: str = "q8",
    threads: int = 1,
    progress: bool | None = None,
) -> Outlook:
    """Look whether sparse activation is worth it for a model: two minutes for one of 135 million weights.

    Args:
        model: of a family with a gated MLP.
        text: its first half calibrates, its second half measures.
        max_perplexity_increase: over the dense model's that is acceptable, above 0.
        tokens: of the second half to measure on.
        dtype: of the engine whose speed is measured: q8, q4, bf16 or f32.
        threads: of the engine.
        progress: a bar on standard error; by default if that is a terminal.

    Raises:
        InputError: the text is too short, or no increase is acceptable.
        UnsupportedModelError: the model has experts, no gate, or is of no known family.
    """
    if not max_perplexity_increase > 0:
        raise InputError(f"max_perplexity_increase: {max_perplexity_increase:g} is not above 0")
    target, oracles = 1 + max_perplexity_increase, oracle_gates(model)
    tried: list[Tried] = [*((rule, off) for rule in ("gate", "guess") for off in LEVELS), ("inputs", INPUTS_LEVEL)]
    with tqdm(
        total=2 + len(oracles) + len(LEVELS) + 2 * len(tried), disable=None if progress is None else not progress
    ) as bar:
        middle = len(text) // 2
        bar.set_description("the dense model")
        ruler = Ruler(model, tokenizer, text[middle:], tokens=tokens)
        bar.update()
        bar.set_description("calibrating")
        calibration = calibrate_all(model, tokenizer, text[:middle][:CALIBRATED])
        bar.update()

        def loss(recipe: Recipe, by: Ruler = ruler) -> Loss:
            found = by.loss(recipe)
            bar.update()
            return found

        bar.set_description("the ceiling")
        oracle = {off: loss(at_level(model, oracles, off)) for off in LEVELS}
        bar.set_description("what rules keep")
        rules = {(rule, off): loss(of_policy(POLICIES[rule](off), calibration)) for rule, off in tried}
        del calibration  # as large as the model
        bar.set_description("layers alone")
        short = Ruler(model, tokenizer, text[middle:], tokens=LAYER_TOKENS, context=LAYER_TOKENS)
        layers = tuple(loss(at_level(model, [gate], LAYER_LEVEL), short).kl for gate in oracles)
        bar.set_description("speed")
        speed, no_speed = _speeds(model, tried, dtype, threads, bar.update)
    training = {(rule, off): tokens_needed(rules[rule, off].factor, target) for rule, off in tried if rule != "inputs"}
    return Outlook(
        family=str(model.config.model_type),
        perplexity=ruler.perplexity,
        tokens=ruler.tokens,
        target=target,
        mlp_share=sum(site.units * site.unit_bytes for site in find_sites(model, "mlp")) / weight_bytes(model),
        oracle=oracle,
        oracle_layers=layers,
        rules=rules,
        speed=speed,
        no_speed=no_speed,
        training=training,
        verdict=verdict(rules, speed, training, target),
    )


def _speeds(
    model: PreTrainedModel, tried: Sequence[Tried], dtype: str, threads: int, progress: Callable[[], object]
) -> tuple[dict[Tried, Speed], str]:
    try:
        architecture = open_weights(model).architecture
    except UnsupportedModelError as error:
        return {}, str(error)
    dense = [(rule, 1 - off) for rule, off in tried]
    found = speeds_of(architecture, dense, dtype=dtype, threads=threads, progress=progress)
    return {(rule, off): found[rule, 1 - off] for rule, off in tried if (rule, 1 - off) in found}, ""


def verdict(
    rules: Mapping[Tried, Loss], speed: Mapping[Tried, Speed], training: Mapping[Tried, float], target: float
) -> str:
    """One line: worth it as it is, worth training, or not worth it; with the reason.

    A rule pays if it is at least 1.05 times as fast as the dense engine, and is good enough if its perplexity is at
    most `target` times that of the dense model.
    """
    pays = {tried: found.ratio.median for tried, found in speed.items() if found.ratio.median >= LEAST_SPEED}
    if not speed:
        return "unknown: no speed could be measured here"
    if not pays:
        best = max(found.ratio.median for found in speed.values())
        return f"not worth it on this machine: no rule is faster than the dense engine (the best is x{best:.2f})"
    ready = [tried for tried in pays if rules[tried].factor <= target]
    if ready:
        rule, off = max(ready, key=pays.__getitem__)
        name = POLICIES[rule].name
        return (
            f"worth it as it is: {name} at {off:.0%} is x{pays[rule, off]:.2f} as fast at perplexity "
            f"x{rules[rule, off].factor:.3f}; sparseact calibrate --policy {name} --sparsity {off:g}"
        )
    trainable = [tried for tried in pays if training.get(tried, math.inf) <= MOST_TOKENS]
    if trainable:
        rule, off = max(trainable, key=pays.__getitem__)
        name = POLICIES[rule].name
        return (
            f"worth training: {name} at {off:.0%} is x{pays[rule, off]:.2f} as fast, and in the order of "
            f"{in_words(training[rule, off])} tokens of distillation would bring perplexity to x{target:g}; "
            f"sparseact train --method {name} --sparsity {off:g}"
        )
    return (
        "not worth it: what is faster here costs too much perplexity, and training would take more than "
        f"{MOST_TOKENS / 1e6:.0f} million tokens (an extrapolation)"
    )
