"""The threads that run a step together: the caller leads, helpers wait for it in compiled code.

Waiting is a short spin, for the threads of a step meet every few microseconds, and then yielding the
processor each round: where others want it the step slows down in proportion, and nobody burns what
another thread needs to come along. Helpers without work go to sleep in Python after about a
millisecond.

All talk goes through `control`, int64 words, those that several threads write a cache line apart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseact.engine.simd.atomics import atomic_add, atomic_load, atomic_store, give_way, pause
from sparseact.engine.simd.jit import inner
from sparseact.errors import InputError

LINE = 8
"""Words of a cache line."""
JOB, ARRIVED, ARMED, STOP = (word * LINE for word in range(4))
"""JOB counts the jobs that were given out, ARRIVED the arrivals at meeting points. ARMED: a job will come
very soon, so nobody may fall asleep. STOP: go home."""
ARGUMENTS = 4 * LINE
"""First of a line of words in which the leader tells what the job is."""
ASLEEP = 5 * LINE
"""Of thread t at ASLEEP + LINE * t: it has returned to Python. The next word is the number of the last job it
did, the one after that the arrivals at its last meeting."""

SPINS = 200
"""Pauses before yielding: about 10 microseconds."""
IDLE_YIELDS = 4000
"""Yields before a helper without work falls asleep: about a millisecond on an idle machine."""


@inner
def meet(control: Any, thread: int, threads: int) -> None:
    """Wait until all threads of the team are here, and have written what they wrote."""
    if threads == 1:
        return
    arrivals = control[ASLEEP + LINE * thread + 2] + threads
    control[ASLEEP + LINE * thread + 2] = arrivals
    atomic_add(control, ARRIVED, 1)
    spins = 0
    while atomic_load(control, ARRIVED) < arrivals:
        if spins < SPINS:
            spins += 1
            pause()
        else:
            give_way()


@inner
def begin_job(control: Any, threads: int) -> bool:
    """Give out a job; False if a helper sleeps. Then wake them and call again: from now on nobody falls asleep."""
    if atomic_load(control, ARMED) == 0:
        atomic_add(control, ARMED, 1)
        for thread in range(1, threads):
            if atomic_load(control, ASLEEP + LINE * thread) != 0:
                return False
    atomic_add(control, JOB, 1)
    return True


@inner
def next_job(control: Any, thread: int) -> bool:
    """Wait for a job that this helper has not done; False when there was none for long, or all is over."""
    asleep = ASLEEP + LINE * thread
    done = control[asleep + 1]
    atomic_store(control, asleep, 0)
    waited = 0
    while True:
        if atomic_load(control, STOP) != 0:
            return False
        if atomic_load(control, JOB) != done:
            control[asleep + 1] = done + 1
            return True
        waited += 1
        if waited < SPINS:
            pause()
        elif waited < SPINS + IDLE_YIELDS or atomic_load(control, ARMED) != 0:
            give_way()
        else:
            # First say so, then look again: either we see that the leader is about to begin, or it sees this.
            atomic_add(control, asleep, 1)
            if atomic_load(control, ARMED) == 0 and atomic_load(control, JOB) == done:
                return False
            atomic_store(control, asleep, 0)


def new_control(threads: int) -> npt.NDArray[np.int64]:
    """The words for a team, aligned to cache lines."""
    words = np.zeros(ASLEEP + LINE * (threads + 1), np.int64)
    start = (-words.ctypes.data % (8 * LINE)) // 8
    return words[start : start + ASLEEP + LINE * threads]


class Team:
    """Helper threads for `threads` - 1 helpers; the caller of `run` is the first thread.

    Args:
        threads: of the team, the caller among them.
        control: what `new_control` made.
        help: run by each helper with its number: does jobs until `next_job` says False. It must not
            refer to the team's owner, so that the owner can be collected.
    """

    def __init__(self, threads: int, control: npt.NDArray[np.int64], help: Callable[[int], object]) -> None:  # noqa: A002
        self._control = control
        self._busy = threading.Lock()
        self._process = os.getpid()
        self._bells = [threading.Event() for _ in range(1, threads)]
        self._helpers = [
            threading.Thread(target=_help, args=(help, thread, control, bell), name=f"sparseact-{thread}", daemon=True)
            for thread, bell in enumerate(self._bells, start=1)
        ]
        for helper in self._helpers:
            helper.start()

    def run(self, lead: Callable[[], bool]) -> None:
        """Do one job; `lead` is the leader's part, and says False if `begin_job` did.

        Raises:
            InputError: the team was closed, or made before a fork of the process.
        """
        if self._control[STOP] or (self._helpers and os.getpid() != self._process):
            raise InputError("this engine was closed, or made before the process was forked; make a new one")
        with self._busy:
            try:
                if not lead():
                    for bell in self._bells:
                        bell.set()
                    lead()
            finally:  # after an interrupt too, helpers may sleep again
                self._control[ARMED] = 0

    def close(self) -> None:
        """End the helpers, once they are done with their job."""
        with self._busy:
            self._control[STOP] = 1
            for bell in self._bells:
                bell.set()
        if os.getpid() == self._process:
            for helper in self._helpers:
                helper.join()


def _help(help: Callable[[int], object], thread: int, control: npt.NDArray[np.int64], bell: threading.Event) -> None:  # noqa: A002
    while not control[STOP]:
        help(thread)
        bell.wait()
        bell.clear()
