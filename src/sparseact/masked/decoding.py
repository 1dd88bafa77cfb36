"""Greedy decoding and teacher forcing over one shared prompt cache.

The prompt but its last token is run once; everything after starts from its cached keys and values.
The step that reads the prompt's last token emits the first label token, so T label tokens are T
steps that read `[last prompt token, label[:-1]]`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseact.errors import NotFiniteError
from sparseact.masked.cache_check import check_cache
from sparseact.models.end_tokens import end_tokens_in_memory

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class Prefix:
    """Prompts that wait for their next token.

    Attributes:
        cache: keys and values of every prompt token but the last.
        attention_mask: [batch, prompt_tokens], 0 where left-padded.
        last: [batch, 1], the last prompt token of each.
    """

    cache: DynamicCache
    attention_mask: Tensor
    last: Tensor

    def repeat(self, times: int) -> Prefix:
        """A copy of its own in which every prompt stands `times` times."""
        cache = copy.deepcopy(self.cache)
        # Unlike `batch_repeat_interleave`, states of convolutions and of state-space layers too.
        cache.reorder_cache(torch.arange(len(self.last), device=self.last.device).repeat_interleave(times))
        mask, last = (t.repeat_interleave(times, dim=0) for t in (self.attention_mask, self.last))
        return Prefix(cache, mask, last)

    def inputs(self, tokens: Tensor) -> dict[str, object]:
        """Arguments of a forward pass that reads `tokens` [batch, n] after the cached ones."""
        ones = self.attention_mask.new_ones(tokens.shape)
        seen = self.attention_mask[:, : self.cache.get_seq_length()]
        if (new := self.cache.get_seq_length() - seen.shape[1]) > 0:
            seen = torch.cat([seen, seen.new_ones(seen.shape[0], new)], dim=1)
        mask = torch.cat([seen, ones], dim=1)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return {
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }


def pad_left(prompts: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """Stack prompts [1, n_i] to ids and mask [batch, max n_i], padded on the left."""
    width = max(prompt.shape[1] for prompt in prompts)
    ids = prompts[0].new_full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - prompt.shape[1] :] = prompt[0]
        mask[row, width - prompt.shape[1] :] = 1
    return ids, mask


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: Tensor, attention_mask: Tensor | None = None) -> Prefix:
    """Run every prompt token but the last. ids: [batch, prompt_tokens], left-padded.

    Raises:
        UnsupportedModelError: the model's cache is not what it is taken for.
    """
    from transformers import DynamicCache

    check_cache(model)
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    prefix = Prefix(DynamicCache(config=model.config), mask, ids[:, -1:])
    if ids.shape[1] > 1:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, :-1]
        model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions,
            past_key_values=prefix.cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return prefix


def check_logits(logits: Tensor) -> None:
    """Refuse logits [..., vocabulary] of which a highest one is not a finite number.

    Raises:
        NotFiniteError: says so.
    """
    if not bool(logits.detach().amax(dim=-1).isfinite().all()):
        raise NotFiniteError


def check_each_step() -> list[Callable[[Tensor, Tensor], Tensor]]:
    """What transformers' `generate` takes as `logits_processor` to do the same after each step."""

    def check(_: Tensor, logits: Tensor) -> Tensor:
        check_logits(logits)
        return logits

    return [check]


def teacher_force(model: PreTrainedModel, prefix: Prefix, label: Tensor) -> Tensor:
    """Logits [batch, T, vocabulary] that predict `label` [batch, T]; leaves `prefix` as it was.

    The batch may be a multiple of the prompts: each prompt then stands for as many rows of `label`.

    Raises:
        NotFiniteError: a step's logits are no numbers.
    """
    forced = prefix.repeat(len(label) // len(prefix.last))
    tokens = torch.cat([forced.last, label[:, :-1]], dim=1)
    logits: Tensor = model(**forced.inputs(tokens)).logits
    check_logits(logits)
    return logits


@torch.no_grad()
def decode_greedily(
    model: PreTrainedModel,
    prefix: Prefix,
    steps: int,
    stop: frozenset[int],
    *,
    times: int = 1,
    before_step: Callable[[int], None] = lambda step: None,
) -> list[Tensor]:
    """The greedy continuation of each prompt, at most `steps` tokens, its stop token included.

    Args:
        stop: token ids that end a text.
        times: how many rows each prompt stands for.
        before_step: called with the step's index before its forward pass.

    Returns:
        One [n_i] tensor of token ids per row; equal to `model.generate(do_sample=False)`.

    Raises:
        NotFiniteError: a step's logits are no numbers.
    """
    running = prefix.repeat(times)
    token, texts = running.last, []
    ended = torch.zeros(token.shape[0], dtype=torch.bool, device=token.device)
    stops = torch.tensor(sorted(stop), device=token.device)
    for step in range(steps):
        before_step(step)
        logits = model(**running.inputs(token)).logits[:, -1]
        check_logits(logits)
        token = logits.argmax(dim=-1, keepdim=True)
        texts.append(torch.where(ended, -1, token[:, 0]))
        ended = ended | torch.isin(token[:, 0], stops)
        if bool(ended.all()):
            break
    columns = torch.stack(texts, dim=1)
    return [row[row >= 0] for row in columns]


def stop_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The token ids that end a text, from the generation config."""
    return end_tokens_in_memory(model)


@contextmanager
def ends_only(model: PreTrainedModel) -> Iterator[None]:
    """Take all but the end tokens out of the model's generation config: beams, penalties, limits of time."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=sorted(stop_tokens(model)) or None)
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
