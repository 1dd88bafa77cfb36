"""How many threads share a step: as many as make it quickest, by the times of the steps themselves.

The threads of a step meet some hundred times, and where another program has the processor of one of them, all wait: a
step of two threads then takes several times what it takes one alone. Now and then a few steps are tried with half as
many threads, or twice; what is quicker stays.
"""

from __future__ import annotations

STEPS = 4
"""Steps of which a mean is taken, and of a trial."""
SOON, LATE = 64, 1024
"""Steps before the next trial: after one that changed something, and at most. One that changes nothing doubles them."""
BETTER = 0.9
"""Share of the usual time that a trial must stay below."""
SLOWER, QUICKER = 1.5, 0.85
"""Factors of the usual time that say that the machine is not as it was: a trial comes at once."""


class Pace:
    """Tells how many threads take part in the next step, and learns from how long each took.

    Attributes:
        members: threads that take part in the next step.
    """

    def __init__(self, threads: int) -> None:
        """All `threads`, or a half, a quarter ... of them, or one."""
        self._counts = [threads]
        while self._counts[-1] > 1:
            self._counts.append(self._counts[-1] // 2)
        self.members = threads
        self._usual: float | None = None  # seconds of a step by so many
        self._recent: float | None = None  # the same, running mean since the last trial
        self._before: int | None = None  # members before the trial that is on
        self._fewer = True  # the next trial is with fewer
        self._wait, self._since = SOON, SOON  # so that the first trial is soon
        self._times: list[float] = []

    def note(self, seconds: float) -> None:
        """A step of `members` took so long."""
        if len(self._counts) == 1:
            return
        self._times.append(seconds)
        if self._before is not None:
            self._judge(self._before)
        elif len(self._times) == STEPS:
            self._look_around()

    def _judge(self, before: int) -> None:
        """End the trial that is on where it has won or lost: it has lost once it took what a usual one takes."""
        assert self._usual is not None
        mean = sum(self._times) / STEPS
        if mean > BETTER * self._usual:
            self.members, self._wait = before, min(2 * self._wait, LATE)
        elif len(self._times) == STEPS:
            self._usual, self._wait = mean, SOON
        else:
            return
        self._before, self._since, self._times = None, 0, []

    def _look_around(self) -> None:
        """Begin a trial where it is time for one, or the steps take another time than they did."""
        mean = sum(self._times) / STEPS
        self._recent = mean if self._recent is None else (self._recent + mean) / 2
        slower = self._usual is not None and self._recent > SLOWER * self._usual
        quicker = self._usual is not None and self._recent < QUICKER * self._usual
        self._since, self._times = self._since + STEPS, []
        if self._since >= self._wait or ((slower or quicker) and self._since >= SOON // 2):
            self._usual, self._recent, self._before = self._recent, None, self.members
            self.members = self._neighbour(fewer=slower or (self._fewer and not quicker))
            self._fewer = not self._fewer
        elif self._usual is None:
            self._usual = mean

    def _neighbour(self, *, fewer: bool) -> int:
        place = self._counts.index(self.members) + (1 if fewer else -1)
        if not 0 <= place < len(self._counts):
            place = self._counts.index(self.members) + (-1 if fewer else 1)
        return self._counts[place]
