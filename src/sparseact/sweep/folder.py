"""The folder of a sweep: what is done is there after each prompt, and the same sweep goes on from it.

The tables hold all prompts. Writing them anew after each would cost the square of the prompts, so it is done after the
first, second, fourth, eighth ... and at the end; the rows of the prompts between lie in files of their own meanwhile.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparseact.errors import InputError
from sparseact.sweep.table import tabulate
from sparseact.utils.files import write_atomically
from sparseact.utils.plain_json import read_json, write_json

IDENTITY = ("version", "model", "plan", "prompts_sha256")
"""Keys of meta.json in which a resumed run must equal the one in the folder."""

Row = dict[Any, Any]


class SweepFolder:
    """Everything that a sweep has found so far, in memory and in a folder.

    Attributes:
        meta: of meta.json.
        samples, diagnostics: rows of their tables.
        done: indices of the prompts in them.
    """

    def __init__(self, path: Path, meta: Row) -> None:
        """Start in a new folder, or go on in that of the same sweep.

        Raises:
            InputError: the folder holds something else, or can't be read.
        """
        self.path, self.meta, self._parts = path, json.loads(json.dumps(meta)), path / "prompts"
        self.samples: list[Row] = []
        self.diagnostics: list[Row] = []
        self.done: set[int] = set()
        if path.exists() and not path.is_dir():
            raise InputError(f"out: {path}: this is a file, not a folder")
        # The disk was full, or the process killed, after meta.json and before anything else: nothing was done yet.
        done = any((path / name).exists() for name in ("samples.parquet", "sweep.csv", self._parts.name))
        if (path / "meta.json").exists() and done:
            self._read()
        elif (path / "sweep.csv").exists():
            raise InputError(f"out: {path}: holds a sweep.csv without its meta.json; choose another folder")

    def add(self, prompt: int, samples: list[Row], diagnostics: list[Row], seconds: float) -> None:
        """Keep the rows of one more prompt; `seconds` is what all of them took."""
        self.samples += samples
        self.diagnostics += diagnostics
        self.done.add(prompt)
        self.meta |= {"seconds": round(seconds, 1), "prompts_done": len(self.done)}
        if len(self.done).bit_count() == 1:  # a power of two
            self.write()
        else:
            part = [prompt, self.meta["seconds"], samples, diagnostics]
            write_json(self._parts / f"{prompt:08}.json", part, nulls=True)

    def write(self) -> None:
        """Write all files, samples.parquet last but for the table made from it: it says what is done."""
        import pandas as pd

        write_json(self.path / "meta.json", self.meta, indent=2)
        with write_atomically(self.path / "diagnostics.parquet") as path:
            pd.DataFrame(self.diagnostics).to_parquet(path, index=False)
        frame = pd.DataFrame(self.samples)
        with write_atomically(self.path / "samples.parquet") as path:
            frame.to_parquet(path, index=False)
        with write_atomically(self.path / "sweep.csv") as path:
            tabulate(frame, self.meta["model"]["name"]).to_csv(path, index=False, float_format="%.6g")
        shutil.rmtree(self._parts, ignore_errors=True)

    def write_rest(self) -> None:
        """Write the tables if they lack a prompt."""
        if self._parts.exists():
            self.write()

    def _read(self) -> None:
        import pandas as pd

        try:
            before = read_json(self.path / "meta.json")
            differing = [key for key in IDENTITY if before[key] != self.meta[key]]
            other = _difference(before, self.meta, differing) if differing else ""
            self.samples = pd.read_parquet(self.path / "samples.parquet").to_dict("records")
            self.diagnostics = pd.read_parquet(self.path / "diagnostics.parquet").to_dict("records")
            parts = [read_json(part) for part in sorted(self._parts.glob("[0-9]*.json"))]
            if not other:
                self._add_parts(float(before.get("seconds", 0)), parts)
        except InputError:
            raise
        except Exception as error:  # a damaged file raises what its reader likes
            raise InputError(
                f"out: {self.path}: holds a run that can't be read ({error}); choose another folder"
            ) from error
        if other:
            raise InputError(f"out: {self.path}: holds another run ({other}); choose another folder")

    def _add_parts(self, seconds: float, parts: list[Any]) -> None:
        self.done = {row["prompt"] for row in self.samples}
        self.diagnostics = [row for row in self.diagnostics if row["prompt"] in self.done]
        self.meta["seconds"] = seconds
        for prompt, seconds_then, samples, rows in parts:
            if prompt not in self.done:
                self.done.add(prompt)
                self.samples += map(_with_nan, samples)
                self.diagnostics += map(_with_nan, rows)
                self.meta |= {"seconds": float(seconds_then), "prompts_done": len(self.done)}
        self.write_rest()


def _with_nan(row: Row) -> Row:
    """A row as it was before JSON, which has no NaN: what is not defined for a prompt."""
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _difference(before: Row, now: Row, keys: Sequence[str]) -> str:
    if "plan" in keys:
        old, new = before["plan"], now["plan"]
        options = [key for key in new if old.get(key) != new[key]]
        return "; ".join(f"{key.replace('_', '-')} {old.get(key)} there, {new[key]} here" for key in options)
    if "model" in keys:
        return f"model {before['model'].get('name')} there, {now['model'].get('name')} here, or other weights"
    return "other prompts" if "prompts_sha256" in keys else "of another version of sparseact"
