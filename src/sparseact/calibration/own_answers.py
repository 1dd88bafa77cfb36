"""Calibration text that the model writes itself, so that no data set is needed: short answers, by torch, in batches.

What a model is trained on is hundreds of times as long, and need be no answers: see `sparseact.training.own_text`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from sparseact.data import builtin_questions, context_of, encode_prompt
from sparseact.errors import InputError
from sparseact.masked.decoding import check_each_step, ends_only, evaluation_mode, pad_left, stop_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUESTIONS_AT_ONCE = 8
ANSWER_TOKENS = 128


def write_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int = 2304, seed: int = 0) -> str:
    """The built-in questions with the model's own answers, sampled at temperature 1.

    Args:
        tokens: answer with at least so many; a calibration uses 2,048.
        seed: of the sampling; the same seed gives the same text on the same machine.

    Returns:
        Questions and answers as plain text, blank lines between them.

    Raises:
        InputError: the model's context is too short for any of the questions.
    """
    room = context_of(model.config) or sys.maxsize
    asked = [(q["question"], encode_prompt(tokenizer, q["question"])) for q in builtin_questions()]
    asked = [(question, ids) for question, ids in asked if ids.shape[1] < room]
    if not asked:
        raise InputError(f"the model's context of {room} tokens is too short for it to answer questions; give `text`")
    texts: list[str] = []
    written = 0
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        evaluation_mode(model),
        tqdm(total=tokens, desc="writing a text to calibrate on", unit="token", file=sys.stderr, disable=None) as bar,
    ):
        torch.manual_seed(seed)
        while written < tokens:
            batch = [asked[(len(texts) + index) % len(asked)] for index in range(QUESTIONS_AT_ONCE)]
            for (question, _), answer in zip(batch, _answer(model, [ids for _, ids in batch], room), strict=True):
                texts.append(f"{question}\n\n{tokenizer.decode(answer, skip_special_tokens=True).strip()}")
                written += len(answer)
                bar.update(len(answer))
    return "\n\n".join(texts)


def _answer(model: PreTrainedModel, prompts: list[Tensor], room: int) -> list[Tensor]:
    """Sampled answers [n_i], without what ends them."""
    stop = stop_tokens(model)
    pad = min(stop, default=0)
    ids, mask = pad_left(prompts, pad)
    with ends_only(model):
        answers = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            top_k=0,
            max_new_tokens=min(ANSWER_TOKENS, room - ids.shape[1]),
            pad_token_id=pad,
            logits_processor=check_each_step(),
        )[:, ids.shape[1] :].cpu()
    stops = torch.tensor(sorted(stop))
    return [row[: int((~torch.isin(row, stops)).cumprod(dim=0).sum())] for row in answers]
