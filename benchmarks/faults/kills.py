"""Kills -9 at random moments, and beside a rename: what was done is found again, and files end with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from faults.child import DONE, Ended, command, fork
from faults.originals import CALIBRATE, SWEEP
from faults.table import Row

TIMES = {"seconds", "seconds_in_all", "command", "environment"}  # keys that say when and where, not what
PROMPTS = 6


def kills(place: Path, count: int) -> list[Row]:
    """A row for a sweep and one for calibrate."""
    model, originals = place / "originals" / "model", place / "originals"
    prompts = ("--prompts", originals / "text.csv", "--column", "question", "--limit", PROMPTS, "--no-report")
    sweep = (*SWEEP, *prompts, "--model", model, "--out")
    calibrate = (*CALIBRATE, "--text", originals / "text.txt", "--model", model, "--out")
    before = {"kills -9 in a sweep": None, "kills -9 in calibrate, over an older recipe": originals / "recipe"}
    return [
        _kill(Row(kind), place / f"kills-{number}", arguments, count, older)
        for number, ((kind, older), arguments) in enumerate(
            zip(before.items(), (sweep, (*calibrate[:4], "0.6", *calibrate[5:])), strict=True)
        )
    ]


def _kill(row: Row, place: Path, arguments: tuple[Any, ...], count: int, older: Path | None) -> Row:
    if older:
        shutil.copytree(older, place / "whole")
    whole = fork(counted(command(*arguments, place / "whole")), place / "process-whole").wait()
    if fault := whole.fault(DONE):
        row.add(f"without a kill: {fault}", whole.seconds)
        return row
    renames, wanted, random = len(_noted(whole)[0]), contents(place / "whole"), Random(0)
    for number in range(count):
        out = place / f"out-{number}"
        if older:
            shutil.copytree(older, out)
        at, moment = (0, random.uniform(0, whole.seconds)) if number % 2 else (random.randrange(2 * renames) + 1, None)
        first = kill_during(counted(command(*arguments, out), at), place / f"process-{number}-a", moment)
        when = f"after {moment:.2f} s" if moment else f"{'before' if at % 2 else 'after'} rename {(at + 1) // 2}"
        second = fork(counted(command(*arguments, out)), place / f"process-{number}-b").wait()
        again = sorted({*_noted(first)[1]} & {*_noted(second)[2]})
        wrong = second.fault(DONE) or differing(contents(out), wanted)
        lost = f"killed {when}: prompts {again} were done again" if again else ""
        row.add(wrong and f"killed {when}: {wrong}", first.seconds + second.seconds, lost)
    return row


def kill_during(work: Callable[[], object], place: Path, moment: float | None) -> Ended:
    """Start it, kill it at a moment if it runs for so long, and wait."""
    child = fork(work, place)
    while not (ended := child.poll()):
        if moment is not None and time.monotonic() - child.started >= moment:
            os.kill(child.pid, signal.SIGKILL)
            moment = None
        time.sleep(0.001)
    return ended


def counted(work: Callable[[], object], kill_at: int = 0) -> Callable[[], object]:
    """Have a process note its renames and the prompts it did, and kill itself before (odd) or after (even) a rename."""

    def noting() -> object:
        from sparseact.sweep import run

        notes = Path("notes").open("w", buffering=1)  # noqa: SIM115  the process may be killed
        rename, add, evaluate, seen = Path.replace, run.SweepFolder.add, run.evaluate_prompt, [0]

        def replace(path: Path, target: Path) -> Path:
            for moment in range(2):
                seen[0] += 1
                if seen[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not moment:
                    rename(path, target)
            notes.write(json.dumps(["renamed", str(target)]) + "\n")
            return target

        def added(folder: Any, prompt: int, *rest: Any) -> None:
            add(folder, prompt, *rest)
            notes.write(json.dumps(["done", prompt]) + "\n")

        def begun(model: Any, tokenizer: Any, plan: Any, ids: Any, index: int, **options: Any) -> Any:
            notes.write(json.dumps(["begun", index]) + "\n")
            return evaluate(model, tokenizer, plan, ids, index, **options)

        Path.replace, run.SweepFolder.add, run.evaluate_prompt = replace, added, begun
        return work()

    return noting


def _noted(ended: Ended) -> tuple[list[Any], list[Any], list[Any]]:
    """Renames, prompts that were done, prompts that were begun."""
    path = ended.place / "notes"
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    renamed, done, begun = ([what for kind, what in notes if kind == name] for name in ("renamed", "done", "begun"))
    return renamed, done, begun


def contents(folder: Path) -> dict[str, Any]:
    """Files by name: JSON without times, all others as bytes."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): _without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in paths
    }


def _without_times(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _without_times(value) for key, value in record.items() if key not in TIMES}
    return [_without_times(value) for value in record] if isinstance(record, list) else record


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which files of a folder are not as they should be."""
    if found.keys() != wanted.keys():
        return f"other files: {sorted(found.keys() ^ wanted.keys())}"
    names = [name for name in found if found[name] != wanted[name]]
    return f"other bytes in {names}" if names else ""
