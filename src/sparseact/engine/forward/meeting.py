"""How the threads of a team wait for each other, in compiled code.

Waiting is a short spin, for the threads of a step meet every few microseconds, and then yielding the
processor each round: where others want it the step slows down in proportion, and nobody burns what
another thread needs to come along.
"""

from typing import Any

from sparseact.engine.simd.atomics import atomic_add, atomic_load, atomic_store, give_way, pause
from sparseact.engine.simd.jit import compiled
from sparseact.engine.threads import (
    ARMED,
    ARRIVED,
    ARRIVED_BEFORE,
    ASLEEP,
    JOB,
    LINE_WORDS,
    MEMBERS,
    STOP,
    TEAM_LIMIT,
)

SPINS = 200
"""Pauses before yielding: about 10 microseconds."""
IDLE_YIELDS = 4000
"""Yields before a helper without work falls asleep: about a millisecond on an idle machine."""


@compiled
def meet(control: Any, thread: int, threads: int) -> None:
    """Wait until all threads that take part in the job are here, and have written what they wrote."""
    if threads == 1:
        return
    arrivals = control[ASLEEP + LINE_WORDS * thread + 2] + threads
    control[ASLEEP + LINE_WORDS * thread + 2] = arrivals
    atomic_add(control, ARRIVED, 1)
    spins = 0
    while atomic_load(control, ARRIVED) < arrivals:
        if spins < SPINS:
            spins += 1
            pause()
        else:
            give_way()


@compiled
def begin_job(control: Any) -> bool:
    """Give out a job; False if a helper sleeps. Then wake them and call again: from now on nobody falls asleep."""
    members = control[MEMBERS]
    if members == 1:
        return True
    if atomic_load(control, ARMED) == 0:
        atomic_add(control, ARMED, 1)
        for thread in range(1, members):
            if atomic_load(control, ASLEEP + LINE_WORDS * thread) != 0:
                return False
    control[ARRIVED_BEFORE] = control[ASLEEP + 2] = atomic_load(control, ARRIVED)
    atomic_store(control, JOB, (atomic_load(control, JOB) // TEAM_LIMIT + 1) * TEAM_LIMIT + members)
    return True


@compiled
def next_job(control: Any, thread: int) -> bool:
    """Wait for a job that this helper has not done; False when there was none for long, or all is over."""
    asleep = ASLEEP + LINE_WORDS * thread
    done = control[asleep + 1]
    atomic_store(control, asleep, 0)
    waited = 0
    while True:
        if atomic_load(control, STOP) != 0:
            return False
        job = atomic_load(control, JOB)
        if job != done:
            control[asleep + 1] = done = job
            if thread < job % TEAM_LIMIT:
                control[asleep + 2] = control[ARRIVED_BEFORE]
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
