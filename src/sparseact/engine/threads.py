"""The threads that run a step together: the caller leads, helpers wait for it in compiled code.

How they wait: see `forward.meeting`. Helpers without work go to sleep in Python after about a millisecond.

All talk goes through `control`, int64 words, those that several threads write a cache line apart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sparseact.errors import InputError

LINE_WORDS = 8
"""Words of a cache line."""
JOB, ARRIVED, ARMED, STOP = (word * LINE_WORDS for word in range(4))
"""JOB is the number of the job that was given out, times TEAM_LIMIT, plus the threads that take part in it: one that
does not may miss any number of them. ARRIVED counts the arrivals at meeting points. ARMED: a job will come very soon,
so nobody may fall asleep. STOP: go home."""
ARGUMENTS = 4 * LINE_WORDS
"""First of a line of words in which the leader tells what the job is."""
MEMBERS, ARRIVED_BEFORE = ARGUMENTS + 6, ARGUMENTS + 7
"""The last of that line: how many threads take part, the leader and the first helpers; and ARRIVED as it begins."""
TEAM_LIMIT = 1024
"""More than the threads of a team."""
ASLEEP = 5 * LINE_WORDS
"""Of thread t at ASLEEP + LINE_WORDS * t: it has returned to Python. The next word is the last job that it
saw, the one after that the arrivals at its last meeting."""


def new_control(threads: int) -> npt.NDArray[np.int64]:
    """The words for a team, aligned to cache lines."""
    words = np.zeros(ASLEEP + LINE_WORDS * (threads + 1), np.int64)
    start = (-words.ctypes.data % (8 * LINE_WORDS)) // 8
    aligned = words[start : start + ASLEEP + LINE_WORDS * threads]
    aligned[MEMBERS] = threads
    return aligned


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

    def run(self, lead: Callable[[], object]) -> None:
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
