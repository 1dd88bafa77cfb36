"""Compiling for this machine, once: the decorator of every compiled function, and where the results are kept."""

import hashlib
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import platformdirs
from numba import config, njit

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and fused; NaN and infinity keep their meaning (attention masks with -inf).
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function: Function) -> Function:
    """The function compiled at its first call, without the interpreter's lock, and kept for later processes.

    Numba notices a change of the file that a function stands in, but not of the functions it calls.
    So the folder has a name that depends on all sources of the engine. Several processes may use it
    at once: Numba writes each file whole and renames it.
    """
    folder = _folder()
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _ARITHMETIC}
    if folder is None:
        return cast(Function, njit(**options)(function))
    # Numba reads the setting when a function is decorated. It is put back, for it is the user's as well.
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        return cast(Function, njit(cache=True, **options)(function))
    finally:
        config.CACHE_DIR = before


@cache
def _folder() -> Path | None:
    """The folder of compiled code, made if need be; None, with a warning, where none can be written."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR) / _digest()
    chosen = os.environ.get("SPARSEACT_CACHE")
    parent = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("sparseact", appauthor=False))
    folder = parent / "numba" / _digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError
    except OSError:
        warnings.warn(
            f"cannot write {folder}: the engine is compiled anew in every process (set SPARSEACT_CACHE)", stacklevel=2
        )
        return None
    return folder


def _digest() -> str:
    """Names the state of the engine's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("**/*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
