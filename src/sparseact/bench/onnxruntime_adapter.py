"""onnxruntime-genai: a folder that its builder wrote, see convert_onnxruntime.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class _Genai:
    """A model, and the generator that holds its cache. See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.folder = Path(options["model"])
        config = genai.Config(str(self.folder))
        threads = {"intra_op_num_threads": options["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = genai.Model(config)
        self.settings = genai.GeneratorParams(self.model)
        # The cache has this size from the start, whatever is read; and append_tokens wants room for one token more.
        self.settings.set_search_options(max_length=options["context"] + 1)
        self.reset()

    def reset(self) -> None:
        self.generator = genai.Generator(self.model, self.settings)

    def read(self, ids: Sequence[int]) -> Logits:
        self.generator.append_tokens(np.array([ids], dtype=np.int32))
        logits: Logits = self.generator.get_logits()[0, -1]
        return logits

    def bytes_per_token(self) -> float:
        """Of the linears and their scales."""
        import onnx

        graph = onnx.load(self.folder / "model.onnx", load_external_data=False).graph
        read = {name for node in graph.node if node.op_type.startswith("MatMul") for name in node.input}
        return sum(_bytes(tensor) for tensor in graph.initializer if tensor.name in read)

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("onnxruntime-genai", "onnxruntime")}


def _bytes(tensor: Any) -> int:
    import onnx

    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def load(options: dict[str, Any]) -> _Genai:
    """A folder: options model, threads, context."""
    return _Genai(options)
