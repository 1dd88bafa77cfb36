"""Screens kept on disk: one takes seconds to make, which a short text would not win back."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparseact.engine.forward.model import Model
from sparseact.engine.lm_head import fit as screening
from sparseact.engine.lm_head.fit import SCREEN
from sparseact.errors import InputError
from sparseact.models import cache_folder
from sparseact.models.formats import Array
from sparseact.utils.files import write_atomically

_VERSION = 1  # of the file, and of how a screen is made; another number means: make it again
_FACTORS = "factors"


def screen_path(model: Model, head: str) -> Path:
    """Where the screen of this head is kept: the name says what it depends on, the head and the norm before it.

    That the rest of the model wrote the texts which the screen was made from does not count: its margin is wider
    where an input does not suit it.
    """
    settings = (_VERSION, screening.TEXTS, screening.TOKENS, screening.SHARE, screening.SIGMAS)
    linear = model.arena.linears[model.numbers[head]]
    digest = hashlib.blake2b(f"{settings} {linear}".encode(), digest_size=12)
    for part in model.arena.parts(model.numbers[head]):
        digest.update(part.data)
    for name in ("norm", "norm.bias", "head.bias"):
        if name in model.offsets:
            size = linear.outputs if name == "head.bias" else linear.inputs
            digest.update(model.vector(name, size).tobytes())
    return cache_folder() / "screens" / f"{digest.hexdigest()}.safetensors"


def read_screen(path: Path, model: Model) -> tuple[float, float] | None:
    """Put a kept screen at its place in the model.

    Returns:
        The factors of its margin (see `fill_screen`); None if there is none, or it is damaged.
    """
    places = _places(model)
    try:
        kept = load_file(path)
    except (OSError, SafetensorError):
        return None
    shapes = {name: place.shape for name, place in places.items()} | {_FACTORS: (2,)}
    if {name: array.shape for name, array in kept.items()} != shapes:
        return None
    if not all(np.isfinite(array).all() for array in kept.values() if array.dtype.kind == "f"):
        return None
    left_out, rounding = kept.pop(_FACTORS).tolist()
    for name, array in kept.items():
        places[name][:] = array
    return left_out, rounding


def keep_screen(path: Path, model: Model, factors: tuple[float, float]) -> None:
    """Write the model's screen, or warn that it has to be made again the next time."""
    try:
        with write_atomically(path) as temporary:
            save_file({**_places(model), _FACTORS: np.asarray(factors)}, temporary)
    except (InputError, OSError, SafetensorError) as error:
        warnings.warn(f"the screen is made anew at each load: {error} (set SPARSEACT_CACHE)", stacklevel=2)


def _places(model: Model) -> dict[str, Array]:
    """Everything that a screen is, where it lies in the model."""
    places: dict[str, Array] = {}
    for name in SCREEN:
        linear = model.arena.linears[model.numbers[name]]
        places |= {f"{name}.{i}": part for i, part in enumerate(model.arena.parts(model.numbers[name]))}
        places[f"{name}.bias"] = model.vector(f"{name}.bias", linear.outputs)
    places["screen.mean"] = model.vector("screen.mean", linear.inputs)
    return places
