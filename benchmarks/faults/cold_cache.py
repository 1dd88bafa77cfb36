"""Many processes at once on a cache that holds nothing: all compile and keep the same code, and each answers."""

from __future__ import annotations

import time
from pathlib import Path

from faults.child import DONE, command, fork, run_all
from faults.table import Row

GENERATE = ("generate", "--prompt", "Why is it so?", "--max-new-tokens", "8", "--dtype", "f32", "--threads", "1")


def cold_cache(place: Path, processes: int) -> Row:
    """Start them; afterwards one more finds the cache whole."""
    row = Row("processes at once on a cold cache")
    cache = {"SPARSEACT_CACHE": str(place / "cache"), "NUMBA_CACHE_DIR": "", "HOME": str(place / "home")}
    generate = (*GENERATE, "--engine", "cpu", "--model", place / "originals" / "model")

    def work() -> object:
        from sparseact.engine.load import packed

        packed.LEAST = 0  # weights of so small a model are packed anew each time otherwise
        return command(*generate)()

    started = time.monotonic()
    folders = [place / f"cold-{number}" for number in range(processes)]
    ended = [ended for _, ended in run_all([work] * processes, folders, processes, cache)]
    row.seconds = time.monotonic() - started
    cold = {path for path in (place / "cache").rglob("*") if path.is_file()}
    after = fork(work, place / "warm", cache).wait()
    for each in [*ended, after]:
        other = "" if each.out == after.out else f"wrote {each.out[:40]!r} instead of {after.out[:40]!r}"
        row.add(each.fault(DONE) or other, 0.0)
    partial = [path.name for path in cold if path.name.startswith(".")]
    made = {path for path in (place / "cache").rglob("*") if path.is_file()} - cold
    row.said += [f"left {name} in the cache" for name in partial]
    row.wrong += len(partial)
    row.lost += len(made)
    row.said += [f"{path.name} was made again by a later process" for path in made]
    row.detail = {"files kept": len(cold), "seconds of a process afterwards": round(after.seconds, 1)}
    return row
