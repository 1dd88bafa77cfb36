"""Is it worth it? A ceiling, what calibrated rules keep, their speed here, and what training would take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.feasibility.candidates import at_level, gate_gates, oracle_gates
from sparseact.feasibility.losses import Loss, Ruler
from sparseact.feasibility.speed import Speed, speed_of
from sparseact.feasibility.training import in_words, tokens_needed
from sparseact.models.weights import open_weights
from sparseact.policies.sparseact import SparseAct

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEVELS: Final = (0.5, 0.7, 0.8)
LAYER_LEVEL: Final = 0.7
INPUTS_LEVEL: Final = 0.4
LEAST_SPEED: Final = 1.05
"""Over the dense engine's: less is within what the machine's own speed drifts."""
MOST_TOKENS: Final = 20_000_000
"""Of training that a user may afford on a laptop: days."""
CALIBRATED: Final = 6_000
"""Characters of the text's first half that rules are calibrated on, about 1,200 tokens."""


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
        gate: by the share of neurons off, where the gate decides.
        inputs: the default policy, 40% of all linears' bytes.
        speed: by rule and share off; empty where the engine does not run the family, for the reason `no_speed`.
        training: tokens until `target`, by the share of neurons off, where the gate decides: an extrapolation.
        verdict: in one line.
    """

    family: str
    perplexity: float
    tokens: int
    target: float
    mlp_share: float
    oracle: Mapping[float, Loss]
    oracle_layers: tuple[float, ...]
    gate: Mapping[float, Loss]
    inputs: Loss
    speed: Mapping[tuple[str, float], Speed]
    no_speed: str
    training: Mapping[float, float]
    verdict: str

    def as_record(self) -> dict[str, Any]:
        """For JSON: keys are strings, such as `gate 0.5`."""
        record = asdict(self)
        for name in ("oracle", "gate", "training"):
            record[name] = {f"{off:g}": value for off, value in record[name].items()}
        record["speed"] = {f"{rule} {off:g}": value for (rule, off), value in record["speed"].items()}
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
        tokens: of the second half to measure on; layers alone on half of them.
        dtype: of the engine whose speed is measured: q8, q4, bf16 or f32.
        threads: of the engine.
        progress: a bar on standard error; by default if that is a terminal.

    Raises:
        InputError: the text is too short, or no increase is acceptable.
        UnsupportedModelError: the model has experts, no gate, or is of no known family.
    """
    if not max_perplexity_increase > 0:
        raise InputError(f"max_perplexity_increase: {max_perplexity_increase:g} is not above 0")
    target = 1 + max_perplexity_increase
    oracles = oracle_gates(model)
    with tqdm(total=6 + len(oracles) + 3, desc="check", disable=None if progress is None else not progress) as bar:
        middle = len(text) // 2
        ruler = Ruler(model, tokenizer, text[middle:], tokens=tokens)

        def loss(recipe: Any, windows: int | None = None) -> Loss:
            bar.update()
            return ruler.loss(recipe, windows=windows)

        calibration = text[:middle][:CALIBRATED]
        gates = gate_gates(model, tokenizer, calibration)
        oracle = {off: loss(at_level(model, oracles, off)) for off in LEVELS}
        by_gate = {off: loss(at_level(model, gates, off)) for off in LEVELS}
        some = max(1, len(ruler.windows) // 2)
        layers = tuple(loss(at_level(model, [gate], LAYER_LEVEL), some).kl for gate in oracles)
        inputs = loss(SparseAct(INPUTS_LEVEL).calibrate(model, tokenizer, calibration))
        speed, no_speed = _speeds(model, dtype, threads)
        bar.update(2)
    training = {off: tokens_needed(by_gate[off].factor, target) for off in LEVELS}
    return Outlook(
        family=str(model.config.model_type),
        perplexity=ruler.perplexity,
        tokens=ruler.tokens,
        target=target,
        mlp_share=_mlp_share(model),
        oracle=oracle,
        oracle_layers=layers,
        gate=by_gate,
        inputs=inputs,
        speed=speed,
        no_speed=no_speed,
        training=training,
        verdict=verdict(by_gate, inputs, speed, training, target),
    )


def _speeds(model: PreTrainedModel, dtype: str, threads: int) -> tuple[dict[tuple[str, float], Speed], str]:
    try:
        architecture = open_weights(model).architecture
    except UnsupportedModelError as error:
        return {}, str(error)
    wanted = [*(("gate", off) for off in LEVELS), ("inputs", INPUTS_LEVEL)]
    return {
        (rule, off): speed_of(architecture, rule, 1 - off, dtype=dtype, threads=threads) for rule, off in wanted
    }, ""


def _mlp_share(model: PreTrainedModel) -> float:
    from sparseact.sites import find_sites, weight_bytes

    return sum(site.units * site.unit_bytes for site in find_sites(model, "mlp")) / weight_bytes(model)


def verdict(
    gate: Mapping[float, Loss],
    inputs: Loss,
    speed: Mapping[tuple[str, float], Speed],
    training: Mapping[float, float],
    target: float,
) -> str:
    """One line: worth it as it is, worth training, or not worth it; with the reason.

    A rule pays if it is at least 1.05 times as fast as the dense engine, and is good enough if its perplexity is at
    most `target` times that of the dense model.
    """
    pays = {rule: found.ratio.median for rule, found in speed.items() if found.ratio.median >= LEAST_SPEED}
    losses = {("inputs", INPUTS_LEVEL): inputs} | {("gate", off): loss for off, loss in gate.items()}
    names = {"gate": "chess", "inputs": "sparseact"}
    if not speed:
        return "unknown: no speed could be measured here"
    if not pays:
        best = max(found.ratio.median for found in speed.values())
        return f"not worth it on this machine: no rule is faster than the dense engine (the best is x{best:.2f})"
    ready = [rule for rule in pays if losses[rule].factor <= target]
    if ready:
        rule, off = max(ready, key=pays.__getitem__)
        return (
            f"worth it as it is: {names[rule]} at {off:.0%} is x{pays[rule, off]:.2f} as fast at perplexity "
            f"x{losses[rule, off].factor:.3f}; sparseact calibrate --policy {names[rule]} --sparsity {off:g}"
        )
    trainable = [off for rule, off in pays if rule == "gate" and training[off] <= MOST_TOKENS]
    if trainable:
        off = max(trainable, key=lambda off: pays["gate", off])
        return (
            f"worth training: {off:.0%} of the neurons off are x{pays['gate', off]:.2f} as fast, and about "
            f"{in_words(training[off])} tokens of distillation would bring perplexity to x{target:g} (an extrapolation)"
        )
    return (
        "not worth it: what is faster here costs too much perplexity, and training would take more than "
        f"{MOST_TOKENS / 1e6:.0f} million tokens (an extrapolation)"
    )
