"""llama.cpp (llama-cpp-python) and its fork ik_llama.cpp (ik-llama-cpp-python) by their C interfaces.

The wrappers' classes add work per token, so logits are read where the library leaves them. Every
option but the threads stays at the library's default, unless asked for: `ub` tokens of a physical
batch, `rtr` repacks the weights to interleaved rows at load (ik_llama.cpp).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
PACKAGES = {"llama.cpp": "llama-cpp-python", "ik_llama.cpp": "ik-llama-cpp-python"}


class _Llama:
    """One context of either library. See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.engine, self.bytes = options["engine"], options["bytes_per_token"]
        is_fork = self.engine == "ik_llama.cpp"
        self.api = api = import_module("ik_llama_cpp._ctypes_api" if is_fork else "llama_cpp.llama_cpp")
        api.llama_backend_init()
        of_model = api.llama_model_default_params()
        of_model.n_gpu_layers = 0
        if options.get("rtr"):
            of_model.repack_tensors, of_model.use_mmap = True, False
        self.model = api.llama_model_load_from_file(str(options["model"]).encode(), of_model)
        if not self.model:
            raise RuntimeError(f"{self.engine} cannot load {options['model']}")
        of_context = api.llama_context_default_params()
        of_context.n_ctx = of_context.n_batch = -(-options["context"] // 256) * 256
        of_context.n_ubatch = options.get("ub") or min(of_context.n_ubatch, of_context.n_ctx)
        of_context.n_threads = of_context.n_threads_batch = options["threads"]
        self.context = api.llama_init_from_model(self.model, of_context)
        if not self.context:
            raise RuntimeError(f"{self.engine} cannot make a context of {of_context.n_ctx} tokens")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(of_context.n_ctx, 0, 1)
        self.is_fork, self.position = is_fork, 0

    def reset(self) -> None:
        if self.is_fork:
            self.api.llama_kv_cache_clear(self.context)
        else:
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)  # noqa: FBT003 - of C
        self.position = 0

    def read(self, ids: Sequence[int]) -> Logits:
        batch = self.batch
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place] = token
            batch.pos[place] = self.position + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = place == len(ids) - 1
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"{self.engine}: llama_decode returned {code}")
        self.position += len(ids)
        return self._logits_of(len(ids) - 1)

    def bytes_per_token(self) -> float:
        return self.bytes

    def versions(self) -> dict[str, str]:
        package = PACKAGES[self.engine]
        return {package: metadata.version(package)}

    def _logits_of(self, place: int) -> Logits:
        pointer = self.api.llama_get_logits_ith(self.context, place)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise RuntimeError(f"{self.engine} gave no logits for token {place} of the batch")
        return np.frombuffer((ctypes.c_float * self.vocabulary).from_address(address), dtype=np.float32)


def load(options: dict[str, Any]) -> _Llama:
    """A GGUF file: options model, threads, context, bytes_per_token; ub and rtr if wanted."""
    return _Llama(options)
