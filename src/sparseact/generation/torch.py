"""Text from a model of transformers, dense or sparse, piece by piece as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseact.data import check_context, encode_prompt
from sparseact.generation.stream import Generated, Sampling, TextStream
from sparseact.masked.decoding import evaluation_mode, stop_tokens
from sparseact.masked.density import Density
from sparseact.models.quiet import quiet
from sparseact.recipes.recipe import Recipe
from sparseact.sites import weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    recipe: Recipe | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    chat: bool = True,
    on_text: Callable[[str], object] = lambda text: None,
) -> Generated:
    """Continue or answer a prompt with transformers' `generate`, under a recipe if one is given.

    Args:
        temperature, top_k, top_p, min_p, repetition_penalty, seed: see `sparseact.generation.stream.Sampling`.
        stop: strings that end the text before them.
        chat: put the prompt into the tokenizer's chat template, if it has one.
        on_text: called with each piece of text as soon as it is certain.

    Raises:
        InputError: an option is out of range, the prompt does not fit, or the recipe is another model's.
    """
    from transformers import StoppingCriteriaList

    sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed)
    watch = _Watch(TextStream(tokenizer, stop, on_text))
    ids = encode_prompt(tokenizer, prompt, chat=chat).to(model.device)
    check_context(model.config, ids.shape[1], max_new_tokens, 0)
    with (
        torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
        evaluation_mode(model),
        quiet(),  # what a generation config says of sampling is overridden on purpose
        recipe(model) if recipe is not None else nullcontext() as density,
    ):
        torch.manual_seed(seed)
        started = time.perf_counter()
        written = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=min(stop_tokens(model), default=0),
            stopping_criteria=StoppingCriteriaList([watch]),
            **_options(sampling),
        )[0, ids.shape[1] :]
        ended = time.perf_counter()
    return Generated(
        text=watch.stream.end(),
        tokens=len(written),
        prompt_tokens=ids.shape[1],
        achieved=density.achieved("decode") if density else 0.0,
        bytes_per_token=density.bytes_per_token("decode") if density else weight_bytes(model),
        prefill_seconds=watch.first - started,
        decode_seconds=ended - watch.first,
        density=_density_by_layer(density) if density else {},
    )


def _options(sampling: Sampling) -> dict[str, Any]:
    """Sampling in transformers' words."""
    options: dict[str, Any] = {"do_sample": sampling.draws, "repetition_penalty": sampling.repetition_penalty}
    if sampling.draws:
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        options["min_p"] = sampling.min_p or None
    return options


def _density_by_layer(density: Density) -> dict[str, float]:
    """Share of the gated weight bytes that decoding read, by layer."""
    gated: dict[str, float] = {}
    off: dict[str, float] = {}
    for gate in density.gates:
        layer = "head" if gate.site.is_head else str(gate.site.layer)
        size = gate.site.units * gate.site.unit_bytes
        gated[layer] = gated.get(layer, 0) + size
        off[layer] = off.get(layer, 0) + size * density.share_off(gate, "decode")
    return {layer: 1 - off[layer] / gated[layer] for layer in gated}


class _Watch:
    """Hands each new token to the stream and ends the text at a stop string.

    A streamer of transformers would get the tokens after it was decided whether to go on.

    Attributes:
        stream: that gets the tokens.
        first: when the first one came, on the clock of `time.perf_counter`.
    """

    def __init__(self, stream: TextStream) -> None:
        self.stream = stream
        self.first = 0.0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        stopped = self.stream.add(int(input_ids[0, -1]))
        self.first = self.first or time.perf_counter()
        return torch.full((len(input_ids),), stopped, dtype=torch.bool, device=input_ids.device)
