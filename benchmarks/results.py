"""What is measured for the documentation, and one of it again by name.

    python benchmarks/results.py                                         # the list
    python benchmarks/results.py --only policies --text wiki.txt         # hours; goes on where it was stopped

A remake measures into `--runs`, copies what is kept to docs/results, and writes the tables and pictures of the page.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from pages import fill
from registry import KEPT, RESULTS, ROOT, UNKEPT, Result

TEXTS = {"text": "a text file, as WikiText-2's validation split", "other": "a text file of another kind"}


def main() -> None:
    """List, or remake what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RESULTS, help="remake this one; without, all are listed")
    for name, what in TEXTS.items():
        parser.add_argument(f"--{name}", type=Path, help=what)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="where it is measured")
    options = parser.parse_args()
    if options.only is None:
        print(listed())
        return
    result = RESULTS[options.only]
    texts = {name: getattr(options, name) for name in TEXTS if any(f"{{{name}}}" in line for line in result.commands)}
    for name, path in texts.items():
        if path is None or not path.is_file():
            parser.error(f"{options.only} needs --{name} (make: {name.upper()}=FILE): {TEXTS[name]}; found {path}")
    remake(result, options.runs, texts)


def listed() -> str:
    """Every result, and every table that has no file."""
    lines = ["make results ONLY=NAME [TEXT=FILE] [OTHER=FILE] remakes one:", ""]
    for name, result in RESULTS.items():
        lines.append(f"{name}: about {result.hours:g} h on two slow cores")
        wrote = ", ".join(f"docs/results/{pattern}" for pattern in result.files)
        lines.append(f"  writes  {f'{wrote}; {result.page}' if wrote else f'what it prints; by hand: {result.page}'}")
        lines += [f"  runs    {command}" for command in result.commands]
    lines += ["", "Tables whose file is not kept:", ""]
    lines += [f"{page}, {head or '(no name)'}: {reason}" for (page, head), reason in UNKEPT.items()]
    return "\n".join(lines)


def remake(result: Result, runs: Path, texts: dict[str, Path]) -> None:
    """Measure, keep the files, write the page."""
    for command in result.commands:
        run(
            command.format(
                runs=shlex.quote(str(runs)), **{name: shlex.quote(str(path)) for name, path in texts.items()}
            )
        )
    for pattern in result.files:
        for made in sorted(runs.glob(pattern)):
            kept = KEPT / made.relative_to(runs)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made, kept)
    fill(result.text, result.places())
    for command in result.draw:
        run(command)


def run(command: str) -> None:
    """A command of the registry, from the root; the script ends where it fails."""
    print(f"+ {command}", flush=True)
    words = split(command)
    ended = subprocess.run(words, cwd=ROOT, check=False)
    if ended.returncode:
        raise SystemExit(f"exit code {ended.returncode} of: {command}")


def split(command: str) -> list[str]:
    """Its words, with this interpreter for `python` and `sparseact`."""
    words = shlex.split(command)
    return {"python": [sys.executable], "sparseact": [sys.executable, "-m", "sparseact"]}.get(
        words[0], words[:1]
    ) + words[1:]


if __name__ == "__main__":
    main()
