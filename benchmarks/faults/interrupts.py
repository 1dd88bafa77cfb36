"""Ctrl-C at random moments of a command: exit code 130 and one line, nothing half-written, and a sweep goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from faults.child import DONE, INTERRUPTED, Ended, command, fork
from faults.kills import PROMPTS, contents, differing
from faults.originals import CALIBRATE, SWEEP
from faults.table import Row

# Moments are drawn from when the command line is there: what interrupts Python as it starts, Python says.
RUN = """
import signal, sys
from sparseact.cli import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
print('ready', flush=True)
run()
"""


def interrupts(place: Path, count: int) -> Row:
    """Real processes, so that imports are interrupted too; commands in turn."""
    row, random = Row("interrupts at random moments"), Random(0)
    model, text = ("--model", place / "originals/model"), ("--text", place / "originals/text.txt")
    prompts = ("--prompts", place / "originals/text.csv", "--column", "question", "--limit", PROMPTS, "--no-report")
    generate = ("generate", "--prompt", "Why?", "--max-new-tokens", "40", "--threads", "1", "--dtype", "f32", *model)
    commands: list[tuple[Any, ...]] = [
        (*SWEEP, *prompts, *model, "--out", "out"),
        (*CALIBRATE, *text, *model, "--out", "out"),
        (*generate, "--engine", "cpu"),
        (*generate, "--engine", "torch"),
        ("eval", "--context", "32", *text, *model),
        ("score", "--prompt", "Why?", *model, "--out", "out"),
    ]
    lengths: dict[int, float] = {}
    whole = fork(command(*commands[0]), place / "interrupts-whole").wait()
    wanted = contents(whole.place / "out")
    for number in range(count):
        kind = number % len(commands)
        if kind not in lengths:
            lengths[kind] = interrupted(commands[kind], place / f"interrupts-length-{kind}", None).seconds
        moment = random.uniform(0, lengths[kind])
        ended = interrupted(commands[kind], place / f"interrupts-{number}", moment)
        wrong = ended.fault(DONE, INTERRUPTED)
        if not wrong and (left := [path.name for path in ended.place.rglob(".*")]):
            wrong = f"left {left}"
        lost = ""
        if kind == 0:
            again = fork(command(*commands[0]), ended.place).wait()
            lost = again.fault(DONE) or differing(contents(ended.place / "out"), wanted)
        where = f"{commands[kind][0]}, interrupted after {moment:.2f} of {lengths[kind]:.2f} s"
        row.add(wrong and f"{where}: {wrong}", ended.seconds, lost and f"{where}, and run again: {lost}")
        row.detail[str(ended.status)] = row.detail.get(str(ended.status), 0) + 1
    return row


def interrupted(arguments: tuple[Any, ...], place: Path, moment: float | None) -> Ended:
    """Run a command in a new process, and interrupt it so many seconds after the command line is there."""
    place.mkdir(parents=True)
    with (place / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *map(str, arguments)],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        ready = process.stdout.readline()
        started = time.monotonic()
        if moment is not None:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=300)
    said = (place / "stderr").read_text(encoding="utf-8", errors="replace")
    return Ended(process.returncode, ready + out, said, time.monotonic() - started, place)
