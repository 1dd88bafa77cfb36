"""An engine in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from sparseact.bench.spec import Spec
from sparseact.errors import InputError

Phase = Literal["prefill", "decode"]

ADAPTERS: Final = {
    "engine": "engine_adapter.py",
    "transformers": "transformers_adapter.py",
    "llama.cpp": "llama_adapter.py",
    "ik_llama.cpp": "llama_adapter.py",
    "onnxruntime-genai": "onnxruntime_adapter.py",
    "openvino-genai": "openvino_adapter.py",
    "mistralrs": "mistralrs_adapter.py",
}
"""The file that makes a worker's model of each engine."""


class RunnerError(Exception):
    """An engine could not be started, or failed: the reason, in one line."""


@dataclass(frozen=True)
class Times:
    """Seconds of one piece of work.

    Attributes:
        wall: what a clock shows.
        cpu: of all threads of the process.
        waited: how long its threads could have run but had no core; 0 where the system does not tell.
    """

    wall: float
    cpu: float
    waited: float


class Runner:
    """An engine, loaded in a process of its own, until the `with` block ends.

    Attributes:
        spec: what runs.
        load_seconds: wall time from the start of the process until the model is loaded.
        versions: of what ran.

    Raises (all methods):
        RunnerError: it could not be loaded, or failed.
        InputError: it says so: a recipe of another model, a type or family that it has not.
    """

    def __init__(
        self,
        spec: Spec,
        model: Path | str,
        *,
        threads: int,
        context: int,
        python: Path | str,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Start the process and load the model.

        Args:
            spec: what to run.
            model: what the adapter takes: a name, a folder or a GGUF file.
            threads: threads of everything that counts them.
            context: tokens that will be read at most.
            python: the Python that has the engine.
            environment: variables to set for the process.
            options: more of the adapter's own.
        """
        self.spec = spec
        folder, started = Path(__file__).parent, time.perf_counter()
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - closed by `close`
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own script
                [str(python), "-P", str(folder / "worker.py"), str(folder / ADAPTERS[spec.engine])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **_same_count(threads), **(environment or {})},
            )
        except OSError as error:
            self._log.close()
            raise RunnerError(f"{spec}: {python}: {error.strerror}") from error
        try:
            answer = self._ask("load", model=str(model), threads=threads, context=context, **asdict(spec), **options)
        except BaseException:  # also Ctrl-C
            self.close()
            raise
        self.load_seconds = time.perf_counter() - started
        self.versions: dict[str, str] = answer["versions"]

    def prefill(self, ids: Sequence[int]) -> Times:
        """Read a prompt, after forgetting what was read before."""
        return Times(**self._ask("prefill", ids=list(ids)))

    def decode(self, tokens: int) -> tuple[Times, list[int]]:
        """Go on greedily: `tokens` times choose a token and read it."""
        answer = self._ask("decode", tokens=tokens)
        ids = answer.pop("ids")
        return Times(**answer), ids

    def nll(self, ids: Sequence[int], *, prompt: int, phase: Phase) -> list[float]:
        """Negative log-likelihoods (nats) of tokens of ids[prompt:]; see worker.Worker.nll."""
        losses: list[float] = self._ask("nll", ids=list(ids), prompt=prompt, phase=phase)["nll"]
        return losses

    def agreement(self, ids: Sequence[int], *, prompt: int) -> float:
        """Share of the tokens ids[prompt:] that have the highest of all logits; see worker.Worker.agreement."""
        return float(self._ask("agreement", ids=list(ids), prompt=prompt)["agreement"])

    def usage(self) -> dict[str, float]:
        """{peak_memory_bytes, bytes_per_token} so far."""
        return self._ask("usage")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        request, answers = self._process.stdin, self._process.stdout
        assert request is not None
        assert answers is not None
        try:
            request.write(json.dumps({"do": command, **arguments}) + "\n")
            request.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RunnerError(f"{self.spec}: the process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = InputError if answer["input"] else RunnerError
            raise kind(f"{self.spec}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log if line.strip()]
        return said[-1] if said else f"exit code {self._process.returncode}"


def _same_count(threads: int) -> dict[str, str]:
    """The same number of threads for every library, and none of their own choosing."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
