"""One engine in a process of its own: a JSON object a line on standard input, its answer on standard output.

    python worker.py ADAPTER.py

ADAPTER.py is a file with a function `load(options)` that returns a Model. This file and an adapter
of a foreign engine import nothing of sparseact, so that any Python which holds the engine runs them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
PIECE, CUTS = 24, 8
"""Tokens of a piece, and in how many ways the text is cut: a third of its tokens is predicted after a piece."""


class Model(Protocol):
    """What an adapter makes of its engine. Logits are [vocabulary] and hold until the next call.

    An engine that decodes otherwise than by reading one token has `step(token) -> Logits` and
    `greedy(tokens) -> list[int]` too, see Worker; one whose logits cost time besides has `prefill(ids)` without them.
    """

    def reset(self) -> None:
        """Forget everything that was read."""
        ...

    def read(self, ids: Sequence[int]) -> Logits:
        """Read more tokens together, as the engine reads prompts by default; logits after the last."""
        ...

    def bytes_per_token(self) -> float:
        """Bytes of weights read for a token; of a sparse engine the mean over the tokens decoded so far."""
        ...

    def versions(self) -> dict[str, str]:
        """What ran."""
        ...


class Worker:
    """The commands. `options` of load: engine, model, dtype, threads, context, recipe, and an adapter's own."""

    def __init__(self, load: Callable[[dict[str, Any]], Model]) -> None:
        self.load_model = load
        self.model: Model
        self.logits: Logits

    def load(self, **options: Any) -> dict[str, Any]:
        """Load the model."""
        self.model = self.load_model(options)
        return {"versions": self.model.versions()}

    def prefill(self, ids: list[int]) -> dict[str, Any]:
        """Read a prompt, after forgetting what was read before: its times."""
        self.model.reset()
        own = getattr(self.model, "prefill", self.read)
        return timed(lambda: own(ids))[1]

    def decode(self, tokens: int) -> dict[str, Any]:
        """Go on greedily from a prefill: times, and the tokens."""
        ids, times = timed(lambda: self.greedy(tokens))
        return times | {"ids": [int(token) for token in ids]}

    def read(self, ids: Sequence[int]) -> Logits:
        """Read tokens together."""
        self.logits = self.model.read(ids)
        return self.logits

    def step(self, token: int) -> Logits:
        """Read one token, as the engine decodes."""
        own = getattr(self.model, "step", None)
        return own(token) if own else self.read([token])

    def greedy(self, tokens: int) -> list[int]:
        """`tokens` times take the most likely token and read it."""
        own = getattr(self.model, "greedy", None)
        if own:
            return own(tokens)
        ids: list[int] = []
        for _ in range(tokens):
            ids.append(int(self.logits.argmax()))
            self.read(ids[-1:])
        return ids

    def nll(self, ids: list[int], prompt: int, phase: str) -> dict[str, Any]:
        """Negative log-likelihoods (nats) of tokens of ids[prompt:], each given all before it.

        Args:
            ids: tokens of a text.
            prompt: how many of them are context only, at least 1. They are read together.
            phase: "decode" reads the others one by one and predicts each; "prefill" reads them in pieces and
                predicts the token after each piece, several times over with other cuts: what prompts are read
                with, in the lengths where engines choose another product of matrices.
        """
        return {"nll": list(self._one_by_one(ids, prompt) if phase == "decode" else self._in_pieces(ids, prompt))}

    def _one_by_one(self, ids: list[int], prompt: int) -> Iterator[float]:
        self.model.reset()
        logits = self.model.read(ids[:prompt])
        for place in range(prompt, len(ids)):
            yield loss(logits, ids[place])
            if place < len(ids) - 1:
                logits = self.step(ids[place])

    def _in_pieces(self, ids: list[int], prompt: int) -> Iterator[float]:
        for shift in range(0, PIECE, PIECE // CUTS):
            self.model.reset()
            cuts = [0, *range(prompt + shift, len(ids), PIECE)]
            for first, last in pairwise(cuts):
                yield loss(self.model.read(ids[first:last]), ids[last])

    def agreement(self, ids: list[int], prompt: int) -> dict[str, Any]:
        """Share of the tokens ids[prompt:] that have the highest of all logits, each read after those before it."""
        self.model.reset()
        logits, same = self.model.read(ids[:prompt]), 0
        for token in ids[prompt:]:
            same += int(logits.argmax()) == token
            logits = self.step(token)
        return {"agreement": same / len(ids[prompt:])}

    def usage(self) -> dict[str, Any]:
        """Peak memory of this process so far, and the bytes of weights that a token reads."""
        return {"peak_memory_bytes": peak_memory(), "bytes_per_token": self.model.bytes_per_token()}


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """A call's result, and in seconds its wall time, the CPU time of all threads, and their wait for a core."""
    waited, cpu, wall = wait_seconds(), time.process_time(), time.perf_counter()
    result = function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, {"wall": wall, "cpu": cpu, "waited": wait_seconds() - waited}


def wait_seconds() -> float:
    """How long the threads of this process could have run but had no core; 0 where the system does not tell."""
    total = 0.0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, IndexError, ValueError):  # a thread may end while we read
            total += int(thread.read_text().split()[1]) / 1e9
    return total


def peak_memory() -> int:
    """Largest resident size in bytes. Not of getrusage on Linux, whose value a process inherits from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def loss(logits: Logits, token: int) -> float:
    """-log softmax(logits)[token], summed in float64."""
    top = float(logits.max())
    total = float(np.exp(logits - np.float32(top)).sum(dtype=np.float64))
    return top + math.log(total) - float(logits[token])


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Answer requests {"do": command, its arguments} until they end."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is this row's result
            answer = refusal(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def refusal(error: Exception) -> dict[str, Any]:
    """The error in one line, and whether it is the user's mistake: an InputError of sparseact says all by itself."""
    is_input = any(kind.__name__ == "InputError" for kind in type(error).__mro__)
    said = str(error) if is_input else f"{type(error).__name__}: {error}"
    return {"error": " ".join(said.split()), "input": is_input}


def main() -> None:
    """Serve, with standard output kept for answers: what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Worker(runpy.run_path(sys.argv[1])["load"]), sys.stdin, answers)


if __name__ == "__main__":
    main()
