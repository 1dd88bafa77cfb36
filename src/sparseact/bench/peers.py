"""Where engines stand and what they load: the peers' own Python, GGUF files of every type, what is made of those."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf

from sparseact.bench.convert import convert, failure
from sparseact.bench.runner import Runner
from sparseact.bench.spec import LLAMAS, PEERS, Spec
from sparseact.errors import InputError
from sparseact.models import weights_path
from sparseact.models.builtin import cache_folder
from sparseact.utils.files import write_atomically

BUILT = Path(".venv-peers/bin/python")
"""Where `make bench-peers` of a checkout puts them."""


def setup(model: str, peers_python: Path | None, specs: Sequence[Spec]) -> Setup:
    """The setup of a model, with files of other types in the cache folder.

    Args:
        model: a built-in name, a folder, a .gguf file or an id on the hub.
        peers_python: by default the one of `make bench-peers` if it is here, else this one.
        specs: what will be run.

    Raises:
        InputError: an engine is not installed, or cannot read the model.
    """
    python = peers_python or (BUILT if BUILT.exists() else Path(sys.executable))
    found = Setup(model, python, cache_folder() / "requantised")
    for spec in specs:
        if spec.engine in PEERS:
            found.need(spec.engine)
            found.shipped()
    return found


@dataclass(frozen=True)
class Setup:
    """What is measured and where its parts are.

    Attributes:
        model: a built-in name, a folder, a .gguf file or an id on the hub.
        peers_python: the Python that has the packages of PEERS.
        gguf_folder: keeps files of other types, and what is converted.
    """

    model: str
    peers_python: Path
    gguf_folder: Path

    def start(self, spec: Spec, *, threads: int, context: int, **options: Any) -> Runner:
        """A runner in the Python that has its engine.

        Raises:
            InputError: there is none, or it needs another kind of file.
            RunnerError: it cannot be loaded.
        """
        if spec.engine in PEERS:
            self.need(spec.engine)
            size = gguf_bytes(self.gguf(spec.dtype))
            python, model = self.peers_python, str(self.readable(spec))
        else:
            python, model, size = Path(sys.executable), self.model, None
        return Runner(spec, model, threads=threads, context=context, python=python, bytes_per_token=size, **options)

    def weights_of(self, spec: Spec) -> str:
        """The model with the weights that an engine runs, for its reference."""
        return str(self.gguf(spec.dtype)) if spec.engine in PEERS and spec.dtype != "file" else self.model

    def need(self, engine: str) -> None:
        """Check that an engine is installed.

        Raises:
            InputError: it is not.
        """
        package = PEERS[engine]
        if package not in self._installed:
            raise InputError(
                f"{engine} is not installed for {self.peers_python}: get it with make bench-peers in a checkout, or "
                f"pip install {package} in any environment, and name its Python with `peers_python`"
            )

    def shipped(self) -> Path:
        """The model's GGUF file.

        Raises:
            InputError: it has none.
        """
        path = weights_path(self.model)
        if path.suffix != ".gguf":
            raise InputError(f"model: {self.model}: {', '.join(PEERS)} need a GGUF file")
        return path

    def readable(self, spec: Spec) -> Path:
        """What a peer loads: the GGUF file of the type, or what the engine's own tool makes of it.

        Raises:
            InputError: the model has no such file, or it cannot be made.
            RunnerError: the engine cannot convert it.
        """
        source = self.gguf(spec.dtype)
        if spec.engine in LLAMAS:
            return source
        target = self._kept(f"{spec.dtype}.{spec.engine}")
        if not target.exists():
            convert(spec, self.peers_python, source, target)
        return target

    def gguf(self, dtype: str) -> Path:
        """The model in a GGUF file of a type, made by llama.cpp's quantiser if need be.

        Raises:
            InputError: the model has no such file, or it cannot be made.
        """
        shipped = self.shipped()
        if dtype == "file":
            return shipped
        target = self._kept(f"{dtype}.gguf")
        if not target.exists():
            self.need("llama.cpp")
            _requantise(self.peers_python, shipped, target, dtype)
        return target

    def _kept(self, ending: str) -> Path:
        """A name of what is made of the model's file, and of no other."""
        shipped = self.shipped()
        known = shipped.resolve()
        mark = hashlib.sha256(f"{known} {known.stat().st_size} {known.stat().st_mtime_ns}".encode()).hexdigest()[:8]
        return self.gguf_folder / f"{shipped.stem}-{mark}.{ending}"

    @cached_property
    def _installed(self) -> frozenset[str]:
        """Those packages of PEERS that the other Python has."""
        if not self.peers_python.exists():
            return frozenset()
        script = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n)))"
        modules = {package.removesuffix("-python").replace("-", "_"): package for package in PEERS.values()}
        command = [str(self.peers_python), "-P", "-c", script, *modules]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        return frozenset(modules[name] for name in done.stdout.split())


def _requantise(python: Path, shipped: Path, target: Path, dtype: str) -> None:
    """Make the GGUF file of another type."""
    script = Path(__file__).with_name("requantise.py")
    with write_atomically(target) as partial:
        if reason := failure(python, str(script), str(shipped), str(partial), dtype):
            raise InputError(f"{target.name} cannot be made: {reason}")


def gguf_bytes(path: Path) -> int:
    """Bytes of weights that a dense engine reads for a token: all, but the embedding where the head has its own."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in tensors:
        tensors.pop("token_embd.weight")
    return sum(tensors.values())
