"""The model of a GGUF file in transformers, made of what our readers read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.families import transformers_naming
from sparseact.models.hf import check_same, check_whole
from sparseact.models.quiet import first_line, quiet
from sparseact.models.tensor_names import find_places
from sparseact.models.weights import Weights, open_weights

if TYPE_CHECKING:
    import torch


def load_gguf(path: Path, dtype: "torch.dtype") -> Any:
    """Read the model of a GGUF file, its weights unpacked to `dtype`, on the CPU.

    Raises:
        UnsupportedModelError: an architecture that the engine does not run, or transformers' model of it has no
            place for some of the weights.
        InputError: not a GGUF file, or cut short, or transformers makes another model of its config.
    """
    weights, where = open_weights(path), str(path)

    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        with quiet():
            config = _config(weights)
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            state = _state(weights, kind, config, dtype, where)
            model, loaded = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model: {where}: transformers cannot make this model: {first_line(error)}") from error
    check_whole(where, loaded)
    check_same(weights, model, where)
    return model


def _config(weights: Weights) -> Any:
    """The config of transformers."""
    import transformers

    said = dict(weights.config)
    known = transformers.AutoConfig.for_model(said.pop("model_type"))
    # What the file does not have; a family's default is of one model of it.
    said = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "sliding_window")) | said
    return type(known)(**{name: value for name, value in said.items() if hasattr(known, name)})


def _state(weights: Weights, kind: Any, config: Any, dtype: "torch.dtype", where: str) -> dict[str, "torch.Tensor"]:
    """The parameters by transformers' names."""
    import torch

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    places = find_places(weights.architecture, transformers_naming(weights.architecture.family), shapes, where)
    if homeless := [name for name in weights.names if name not in places]:
        raise UnsupportedModelError(
            f"model: {where}: transformers' {kind.__name__} has no place for {len(homeless)} tensors of this file, "
            f"such as {weights.places[homeless[0]].name}"
        )
    # What a file lacks is a bias, for find_places has the rest: zero.
    state = {place.name: torch.zeros(shapes[place.name], dtype=dtype) for place in places.values()}
    for name in weights.names:
        place, values = places[name], torch.from_numpy(weights.floats(name) - places[name].added)
        rows = state[place.name].T if place.transposed else state[place.name]
        stored = place.rows(len(values))
        rows[place.first + (np.arange(len(values)) if stored is None else stored)] = values.to(dtype)
    return state
