"""Calling compiled code from Python, and keeping it: neither needs Numba, whose import takes longer than a first token.

Machine code is kept as object files, which LLVM loads in a few milliseconds. Only where one is missing are the sources
imported and compiled.
"""

import ctypes
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from llvmlite import binding

import sparseact
from sparseact.errors import InputError
from sparseact.models.builtin import cache_folder
from sparseact.utils.files import write_atomically

_HOME = Path(sparseact.__file__).parent
_COMPILED = re.compile(r"^@(?:compiled|operation)\b", re.MULTILINE)
_IMPORT = re.compile(r"^\s*from (sparseact[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)

_Address = Callable[[int], int]
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)  # which lets go of the interpreter's lock


class Entry:
    """A compiled function as Python calls it, of arrays, numbers, None and named tuples of them.

    It is compiled for the types of its arguments at the first call with them, and kept for later processes.
    """

    def __init__(self, path: str) -> None:
        """`path`: the function's name, after that of its module in `sparseact.engine`."""
        self.module, _, self.name = path.rpartition(".")
        self._lock = Lock()
        self._functions: dict[tuple[Any, ...], _Address] = {}

    def __call__(self, *arguments: Any) -> int:
        """Run it; what it returns, if that is an integer."""
        return Call(self, arguments)()

    def function(self, arguments: tuple[Any, ...]) -> _Address:
        """The machine code for arguments of these types."""
        kinds = tuple(map(_kind, arguments))
        if kinds not in self._functions:
            with self._lock:
                if kinds not in self._functions:
                    self._functions[kinds] = self._load(kinds, arguments)
        return self._functions[kinds]

    def _load(self, kinds: tuple[Any, ...], arguments: tuple[Any, ...]) -> _Address:
        name = f"{self.name}-{hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]}"
        path = _folder() / f"{name}.o"
        code = _read(path)
        if code is None:
            from sparseact.engine.simd.jit import object_code

            code = object_code(getattr(import_module(f"sparseact.engine.{self.module}"), self.name), arguments, name)
            _keep(path, code)
        return _loaded(code, name)


class Call:
    """A call of an entry with its arguments, which can be repeated; what stands in arrays is read anew each time."""

    def __init__(self, entry: Entry, arguments: tuple[Any, ...]) -> None:
        """The arguments are kept alive, and must not move."""
        self._entry, self._arguments = entry, list(arguments)
        words, self._places = [0], []
        for argument in arguments:
            self._places.append(len(words))
            words += words_of(argument)
        self._words = np.array(words, np.int64)
        self._address = self._words.ctypes.data
        self._run: _Address | None = None

    def set(self, i: int, argument: Any) -> None:
        """Another argument of the same type instead of number `i`."""
        self._arguments[i] = argument
        words = list(words_of(argument))
        self._words[self._places[i] : self._places[i] + len(words)] = words

    def __call__(self) -> int:
        """Run it; what it returns, if that is an integer."""
        if self._run is None:
            self._run = self._entry.function(tuple(self._arguments))
        if self._run(self._address):
            raise RuntimeError(f"{self._entry.name} failed in compiled code")
        return int(self._words[0])


def words_of(value: Any) -> Iterator[int]:
    """A value as Numba hands it over, taken apart into 64-bit words."""
    if isinstance(value, np.ndarray):
        # Owner and parent are for counting references, which compiled code does not.
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(value, tuple):
        for item in value:
            yield from words_of(item)
    elif isinstance(value, float | np.floating):
        kind = np.float32 if isinstance(value, np.float32) else np.float64
        yield int(kind(value).view(np.int32 if kind is np.float32 else np.int64))
    else:
        yield int(value or 0)


def _kind(value: Any) -> Any:
    """What machine code depends on of a value."""
    if isinstance(value, np.ndarray):
        # In what order it lies (1 and 2; some lie in both), whether it may be written and whether it is aligned.
        flags = value.flags.num
        return value.dtype.char, value.ndim, flags & (0x501 if flags & 1 else 0x502)
    if isinstance(value, tuple):
        return (type(value).__name__, *map(_kind, value))
    return type(value).__name__


def _loaded(code: bytes, name: str) -> _Address:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function = _FUNCTION(engine.get_function_address(name))
    _ENGINES.append(engine)
    return function


_ENGINES: list[Any] = []
"""They own the machine code, for as long as the process runs."""


def _read(path: Path) -> bytes | None:
    """What was kept; None if there is none, or it is damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    digest, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(path: Path, code: bytes) -> None:
    try:
        with write_atomically(path) as temporary:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
    except (InputError, OSError):
        _warn(path.parent)


@cache  # once is enough
def _warn(folder: Path) -> None:
    warnings.warn(
        f"cannot write {folder}: the engine is compiled anew in every process (set SPARSEACT_CACHE)", stacklevel=2
    )


@cache
def _folder() -> Path:
    """The folder of compiled code; its name says what that depends on but for the types of arguments."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    parent = Path(chosen) if chosen else cache_folder() / "compiled"
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and "CACHE" not in item[0])
    compilers = version("numba"), version("llvmlite")
    processor = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    return parent / hashlib.sha256(repr((_digest(), compilers, processor, settings)).encode()).hexdigest()[:16]


def _digest(home: Path = _HOME) -> str:
    """Names the state of the sources that compiled code is made of: its files and all that they import.

    Args:
        home: the package's folder.
    """
    sources = (path for path in home.glob("engine/**/*.py") if _COMPILED.search(path.read_text(encoding="utf-8")))
    return sources_digest([home / "engine/simd/entry.py", *sources], home)


def sources_digest(sources: Iterable[Path], home: Path = _HOME) -> str:
    """Names the state of some sources of the package, and of all of its sources that they import."""
    ahead, texts = list(sources), dict[Path, str]()
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
