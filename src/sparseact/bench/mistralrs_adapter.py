"""mistralrs: a GGUF file, by a server that takes text and gives log-probabilities.

Its tokenizer is one that splits text at spaces, see convert.py, so that it reads exactly the tokens that it is given.
The log-probabilities of the whole vocabulary stand for the logits. It keeps what it read last and reads on from
there. Every other option stays at the library's default, and RAYON_NUM_THREADS is the number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from mistralrs import ChatCompletionRequest, Runner, Which
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class _MistralRs:
    """A server of one model. See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        folder = Path(options["model"])
        tokenizer = folder / "tokenizer.json"
        vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
        self.words = sorted(vocabulary, key=vocabulary.__getitem__)
        self.server = Runner(
            Which.GGUF(str(folder), "model.gguf", tokenizer_json=str(tokenizer)),
            token_source="none",  # noqa: S106 - no password
            prefix_cache_n=1,  # so that a reset forgets
            jinja_explicit=str(folder / "prompt.jinja"),
        )
        self.bytes = options["bytes_per_token"]
        self.ids: list[int] = []

    def reset(self) -> None:
        """Read one token alone, which takes the place of what was kept."""
        self._ask([0], tokens=1, top=1)
        self.ids = []

    def prefill(self, ids: Sequence[int]) -> None:
        """Read without the log-probabilities, which take time to be handed over."""
        self.ids += ids
        self._ask(self.ids, tokens=1, top=1)

    def read(self, ids: Sequence[int]) -> Logits:
        self.ids += ids
        [found] = self._ask(self.ids, tokens=1, top=len(self.words))
        logits = np.full(len(self.words), -np.inf, dtype=np.float32)
        for one in found.top_logprobs:
            logits[one.token] = one.logprob
        return logits

    def greedy(self, tokens: int) -> list[int]:
        """In one request, as it is used; its first pass reads the last token that it kept once more."""
        found = [one.top_logprobs[0].token for one in self._ask(self.ids, tokens=tokens, top=1)]
        self.ids += found
        return found

    def bytes_per_token(self) -> float:
        return self.bytes

    def versions(self) -> dict[str, str]:
        return {"mistralrs": metadata.version("mistralrs")}

    def _ask(self, ids: Sequence[int], *, tokens: int, top: int) -> list[Any]:
        request = ChatCompletionRequest(
            messages=" ".join(self.words[token] for token in ids),
            model="default",
            max_tokens=tokens,
            temperature=0.0,
            ignore_eos=True,
            logprobs=True,
            top_logprobs=top,
        )
        answer = self.server.send_chat_completion_request(request)
        if answer.usage.prompt_tokens != len(ids):
            raise RuntimeError(f"mistralrs read {answer.usage.prompt_tokens} tokens of {len(ids)}")
        found: list[Any] = answer.choices[0].logprobs.content
        return found


def load(options: dict[str, Any]) -> _MistralRs:
    """A folder: options model, bytes_per_token."""
    return _MistralRs(options)
