"""openvino-genai's model of a GGUF file, see convert_openvino.py, run by openvino itself.

The pipelines of openvino-genai give tokens and no logits; so this does for each token what its pipeline without
paged attention does. Every option but the threads stays at the library's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

Logits = NDArray[np.float32]


class _OpenVino:
    """A compiled model, and the request that holds its cache. See worker.Model."""

    def __init__(self, options: dict[str, Any]) -> None:
        core = openvino.Core()
        model = core.read_model(Path(options["model"]) / "openvino_model.xml")
        _keep_last(model)
        wanted = {"INFERENCE_NUM_THREADS": options["threads"], "PERFORMANCE_HINT": "LATENCY"}
        self.request = core.compile_model(model, "CPU", wanted).create_infer_request()
        self.bytes = options["bytes_per_token"]
        self.reset()

    def reset(self) -> None:
        self.request.reset_state()
        self.position = 0

    def read(self, ids: Sequence[int]) -> Logits:
        first, last = self.position, self.position + len(ids)
        self.request.infer({
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, last), dtype=np.int64),
            "position_ids": np.arange(first, last, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        })  # fmt: skip
        self.position = last
        logits: Logits = self.request.get_tensor("logits").data[0, -1]
        return logits

    def bytes_per_token(self) -> float:
        return self.bytes

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("openvino-genai", "openvino")}


def _keep_last(model: openvino.Model) -> None:
    """Have the head read the last token only, as openvino-genai's pipelines do."""
    head = model.output("logits").node.input_value(0).get_node()
    if head.get_type_name() == "MatMul":
        last = opset13.gather(head.input_value(0), np.array([-1]), np.array(1))
        head.input(0).replace_source_output(last.output(0))
        model.validate_nodes_and_infer_types()


def load(options: dict[str, Any]) -> _OpenVino:
    """A folder: options model, threads, bytes_per_token."""
    return _OpenVino(options)
