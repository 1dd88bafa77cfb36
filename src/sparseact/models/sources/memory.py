"""A model of transformers in memory, read as files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.formats import Floats


@dataclass(frozen=True)
class LoadedModel:
    """The parameters of a model of transformers, on any device, in any floating type.

    Attributes:
        parameters: by name, a tied one by each of its names.
        where: the model's class, for errors.
        files: none.
    """

    parameters: Mapping[str, Any]
    where: str
    files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, model: Any) -> LoadedModel:
        """The parameters of this model."""
        return cls(dict(model.named_parameters(remove_duplicate=False)), type(model).__name__)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    def read(self, name: str, first: int, last: int) -> Floats:
        """Rows `first` to `last` of a parameter as float32."""
        parameter = self.parameters[name].detach()
        if parameter.is_meta or not parameter.is_floating_point():
            raise InputError(f"{self.where}: {name} is not in memory as plain numbers ({parameter.dtype})")
        return np.array(parameter[first:last].float().cpu().numpy(), order="C")


def settled(architecture: Architecture, model: Any) -> Architecture:
    """The architecture that a model's config says, with what the model itself knows better: whether its head is tied.

    Raises:
        InputError: the model rotates by other frequencies than its config says.
    """
    held = {
        name.rpartition(".")[2].removesuffix("inv_freq").rstrip("_"): buffer
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and "original" not in name and not buffer.is_meta
    }
    kinds = getattr(model.config, "layer_types", None) or [""] * architecture.layers
    for row, kind in set(zip(architecture.layer_frequencies, kinds, strict=False)):  # none where positions are learned
        buffer, said = held.get(kind, held.get("")), np.asarray(architecture.frequencies[row], np.float32)
        if buffer is None or not said.any():  # a layer that does not rotate has no buffer of its own
            continue
        numbers = buffer.float().cpu().numpy()
        precision = 1e-5 if buffer.element_size() > 2 else 1e-2  # halves, where all of the model was made so
        if numbers.shape != said.shape or not np.allclose(numbers, said, rtol=precision, atol=0):
            raise InputError(f"{type(model).__name__}: its rotary frequencies are not those that its config says")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return replace(architecture, tied=head is None or head.weight is embedding.weight)
