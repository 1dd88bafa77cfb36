"""Compiling for this machine, once: the decorator of every compiled function, and where the results are kept."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import platformdirs
from numba import config, njit

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums are added as they are written: the same numbers come out wherever LLVM inlines a function, on every processor
# (`sums` and `simd` add 16 at a time). Arrays are not counted: a view would cost an atomic addition, for which
# threads fight. So nothing may be allocated there.
_OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}


def compiled(function: Function) -> Function:
    """The function compiled at its first call, without the interpreter's lock, and kept for later processes.

    Numba notices a change of the file that a function stands in, but not of the functions it calls.
    So the folder has a name that depends on all sources that compiled code is made of. Several processes may use it
    at once: Numba writes each file whole and renames it.
    """
    folder = _folder()
    if folder is None:
        return cast(Function, njit(**_OPTIONS)(function))
    # Numba reads the setting when a function is decorated. It is put back, for it is the user's as well.
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        return cast(Function, njit(cache=True, **_OPTIONS)(function))
    finally:
        config.CACHE_DIR = before


def inner(function: Function) -> Function:
    """A part of `compiled` functions, which Python cannot call: nothing is made for that, and nothing kept."""
    return cast(Function, njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function))


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
    """Names the state of the sources that compiled code is made of: its files and all that they import."""
    home = Path(__file__).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in home.glob("*.py")}
    wanted: set[str] = set()
    ahead = [name for name, text in texts.items() if "@compiled" in text or "@inner" in text]
    while ahead:
        name = ahead.pop()
        if name not in wanted:
            wanted.add(name)
            ahead += [other for other in re.findall(r"sparseact\.engine\.(\w+)", texts[name]) if other in texts]
    digest = hashlib.sha256()
    for name in sorted(wanted):
        digest.update(f"{name}\0{texts[name]}\0".encode())
    return digest.hexdigest()[:16]
