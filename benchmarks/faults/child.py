"""Commands in processes of their own that start in milliseconds: forks of one that has imported everything.

A process that crashes, hangs or is killed takes nothing with it, and the one that waits for it says how it ended. The
parent computes nothing itself: with threads of torch or the engine it could not fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

DONE, USERS_MISTAKE, INTERRUPTED = 0, 2, 130
LIMIT = 900.0  # seconds; the machine may be a slow one, and the engine compiles at its first use
_HEAVY = ("torch", "transformers", "pandas", "pyarrow.parquet", "safetensors.torch", "sparseact.cli")
_PACKAGES = ("models", "policies", "sweep", "report", "attribution", "evaluation", "engine", "generation", "training")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, minus the signal that ended it, or None after too long; what it wrote."""

    status: int | None
    out: str
    err: str
    seconds: float
    place: Path
    result: Any = None

    def fault(self, *fine: int) -> str:
        """What is wrong with that, in a line; nothing where the status is one of `fine` and nothing else is."""
        last = (self.err.strip().splitlines() or [""])[-1]
        if self.status is None:
            return f"still running after {self.seconds:.0f} s"
        if self.status < 0:
            return f"ended by {signal.Signals(-self.status).name}"
        if self.status not in (fine or (DONE, USERS_MISTAKE)):
            return f"exit code {self.status}: {last}"
        if "Traceback (most recent call last)" in self.err:
            return f"a traceback: {last}"
        if self.status != DONE and not last.startswith("sparseact: "):
            return f"exit code {self.status} without its line: {last}"
        return ""


@dataclass(frozen=True)
class Child:
    """A process that runs, and the folder for what it writes."""

    pid: int
    place: Path
    started: float
    limit: float = LIMIT

    def poll(self) -> Ended | None:
        """How it ended, if it has; after its limit it is ended."""
        pid, code = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.started
        if not pid and seconds < self.limit:
            return None
        if not pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        out, err = ((self.place / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
        result = self.place / "result.json"
        found = json.loads(result.read_bytes()) if result.exists() else None
        return Ended(os.waitstatus_to_exitcode(code) if pid else None, out, err, seconds, self.place, found)

    def wait(self) -> Ended:
        """How it ended."""
        while (ended := self.poll()) is None:
            time.sleep(0.002)
        return ended


def import_everything() -> None:
    """What a fork then need not."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    for name in (*_HEAVY, *(f"sparseact.{package}" for package in _PACKAGES)):
        import_module(name)


def fork(
    work: Callable[[], object], place: Path, environment: Mapping[str, str] | None = None, limit: float = LIMIT
) -> Child:
    """Start a process that does `work` in the folder `place`.

    What it returns becomes the exit status if it is a number, as main's is; else the process ends with 0, and it is
    handed back.
    """
    place.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    started, pid = time.monotonic(), os.fork()
    if pid:
        return Child(pid, place, started, limit)
    status = 1
    try:
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            setattr(sys, name, os.fdopen(os.dup(number), "w", encoding="utf-8"))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os.chdir(place)
        os.environ |= environment or {}
        found = work()
        if isinstance(found, int):
            status = found
        else:
            status = 0
            (place / "result.json").write_text(json.dumps(found))
    except BaseException:  # noqa: BLE001  whatever it is belongs to this process
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # nothing that the parent would do at its end


def run_all(
    works: Iterable[Callable[[], object]],
    places: Iterable[Path],
    processes: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Ended]]:
    """Some at a time; the number of each and how it ended, as they end."""
    running: dict[int, Child] = {}
    waiting = enumerate(zip(works, places, strict=False))
    while True:
        while len(running) < processes and (following := next(waiting, None)):
            number, (work, place) = following
            running[number] = fork(work, place, environment)
        if not running:
            return
        for number, child in [*running.items()]:
            if ended := child.poll():
                del running[number]
                yield number, ended
        time.sleep(0.002)


def command(*arguments: str | Path) -> Callable[[], int]:
    """The command line, to be forked."""
    return lambda: import_module("sparseact.cli").main([str(argument) for argument in arguments])
