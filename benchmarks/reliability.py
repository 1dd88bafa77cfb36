"""Faults survived, counted: bad inputs, kills, cold caches, full disks, many texts, interrupts.

    python benchmarks/reliability.py --count 100 --kills 3 --processes 4 --texts 300 --interrupts 5
    python benchmarks/reliability.py --only bad-inputs --inputs 17 33      # these again, their files kept

All on tiny random models in a temporary folder. Wrong is a crash, a traceback, an exit code that is not the one of
docs/reliability.md, an answer that is another, a file that is half-written; lost is work that is not found again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from faults.bad_inputs import bad_inputs, one
from faults.child import fork, import_everything
from faults.cold_cache import cold_cache
from faults.disks import full_disks
from faults.interrupts import interrupts
from faults.kills import kills
from faults.originals import make_originals
from faults.table import Row, as_markdown
from faults.texts import texts
from pages import fill, read_rows
from sparseact.bench.measure import environment
from sparseact.utils.files import write_atomically

PLACE = "faults survived"


def main() -> None:
    """Run every kind that was asked for, keep its rows among those of the others, and print the table."""
    options = parse()
    if not options.table:
        count(options)
    table = as_markdown(read(options.out))
    print(table)
    if options.page:
        fill(options.page, {PLACE: table})


def count(options: argparse.Namespace) -> None:
    """Run the kinds and keep what was counted."""
    import_everything()
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        place = Path(folder)
        made = fork(lambda: make_originals(place / "originals"), place / "originals").wait()
        if fault := made.fault():
            sys.exit(f"the files to damage could not be made: {fault}\n{made.err}")
        if options.inputs:
            again(place, options.inputs)
            return
        for name in options.only or KINDS:
            started = time.monotonic()
            rows = KINDS[name](place, options)
            tqdm.write(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            keep(options.out, name, rows)


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, help="these kinds; the rows of others stay")
    parser.add_argument("--count", type=int, default=1000, help="bad inputs")
    parser.add_argument("--inputs", type=int, nargs="+", help="bad inputs of these numbers, and what they say")
    parser.add_argument("--kills", type=int, default=20, help="kills -9, of a sweep and of calibrate each")
    parser.add_argument("--processes", type=int, default=20, help="that start on one cold cache")
    parser.add_argument(
        "--disks", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256], help="sizes of full ones, KiB"
    )
    parser.add_argument("--texts", type=int, default=10_000, help="that are generated")
    parser.add_argument("--interrupts", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, for bad inputs")
    parser.add_argument("--out", type=Path, default=Path("runs/reliability.jsonl"))
    parser.add_argument("--table", action="store_true", help="only the table, of what --out holds")
    parser.add_argument("--page", type=Path, help=f"fill its place `{PLACE}`")
    return parser.parse_args()


def places(files: Sequence[Path]) -> dict[str, str]:
    """The table of docs/reliability.md, by the name of its place."""
    return {PLACE: as_markdown([row for path in files for row in read(path)])}


KINDS: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    "bad-inputs": lambda place, options: [
        bad_inputs(place, [*range(options.count)], options.jobs, lambda line: tqdm.write(line, file=sys.stderr))
    ],
    "kills": lambda place, options: kills(place, options.kills),
    "cold-cache": lambda place, options: [cold_cache(place, options.processes)],
    "full-disks": lambda place, options: [full_disks(place, options.disks)],
    "texts": lambda place, options: [texts(place, options.texts)],
    "interrupts": lambda place, options: [interrupts(place, options.interrupts)],
}


def again(place: Path, numbers: list[int]) -> None:
    """Inputs by their numbers, and what comes of them."""
    for number in numbers:
        ended = one(place, number).wait()
        print(f"input {number}: exit code {ended.status}\n{ended.out}{ended.err}")


def keep(path: Path, name: str, rows: list[Row]) -> None:
    """Write a line of JSON for each row, in the place of those of the same kind."""
    before = {kind: [row for row in read(path) if row["name"] == kind] for kind in KINDS}
    before[name] = [{"name": name} | row.as_json() | {"environment": environment()} for row in rows]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for kind in KINDS for row in before[kind]))


def read(path: Path) -> list[dict[str, object]]:
    """What was measured before."""
    return read_rows([path]) if path.exists() else []


if __name__ == "__main__":
    main()
