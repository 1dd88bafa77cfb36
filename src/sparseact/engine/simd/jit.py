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

import sparseact

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums are added as they are written: the same numbers come out wherever LLVM inlines a function, on every processor
# (`sums` and `simd` add 16 at a time). Arrays are not counted: a view would cost an atomic addition, for which
# threads fight. So nothing may be allocated there.
_OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}


_COMPILED = re.compile(r"^@(?:compiled|inner|operation)\b", re.MULTILINE)
_IMPORT = re.compile(r"^\s*from (sparseact[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


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


def _digest(home: Path = Path(sparseact.__file__).parent) -> str:
    """Names the state of the sources that compiled code is made of: its files and all that they import.

    Args:
        home: the package's folder.
    """
    ahead = [path for path in home.glob("engine/**/*.py") if _COMPILED.search(path.read_text(encoding="utf-8"))]
    texts: dict[Path, str] = {}
    while ahead:
        path = ahead.pop()
        if path not in texts:
            texts[path] = path.read_text(encoding="utf-8")
            ahead += _imported(texts[path], home)
    digest = hashlib.sha256()
    for path in sorted(texts):
        digest.update(f"{path.relative_to(home)}\0{texts[path]}\0".encode())
    return digest.hexdigest()[:16]


def _imported(text: str, home: Path) -> list[Path]:
    """The package's own files that a source imports; of `from a.b import c`, that of a.b and of a.b.c if it is one."""
    names = []
    for package, imported in _IMPORT.findall(text):
        names += [package, *(f"{package}.{name}" for name in re.findall(r"\w+", imported))]
    stems = {home.joinpath(*name.split(".")[1:]) for name in names}
    return [path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
