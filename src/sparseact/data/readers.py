"""Readers of prompt files: each takes a path and a column, and gives the rows' text or one clear line."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sparseact.errors import InputError, MissingExtraError, unknown_name

_USUAL_COLUMNS = ("question", "prompt", "text")
_SEPARATORS = (",", ";", "\t", "|")


def read_text(path: Path) -> str:
    """A text file's contents, its line ends all line feeds.

    Raises:
        InputError: not to be read, not UTF-8, or with NUL bytes.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text (byte {error.object[error.start]:#04x} at offset {error.start})"
        ) from error
    if "\0" in text:
        raise InputError(f"{path}: holds a NUL character at line {text[: text.index(chr(0))].count(chr(10)) + 1}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def choose_column(where: str, columns: list[str], column: str | None) -> str:
    """The column that was asked for; else question, prompt or text; else the only one."""
    shown = [" ".join(name.split()) for name in columns]  # an error is one line whatever a file calls its columns
    if column is not None:
        if column not in columns:
            raise unknown_name(f"column: {where}: unknown column", column, shown)
        chosen = column
    else:
        usual = [name for name in _USUAL_COLUMNS if name in columns]
        if not usual and len(columns) != 1:
            raise InputError(
                f"column: {where}: say which column holds the prompts; there are {', '.join(shown) or 'none'}"
            )
        chosen = usual[0] if usual else columns[0]
    if columns.count(chosen) > 1:
        raise InputError(f"column: {where}: there are {columns.count(chosen)} columns called {chosen!r}")
    return chosen


def _read_lines(path: Path, column: str | None) -> list[str]:  # noqa: ARG001 - a .txt file has no columns
    return read_text(path).split("\n")


def _read_csv(path: Path, column: str | None, usual: str = ",") -> list[str]:
    text = read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    named = re.match(r"sep=(.)\n", text, re.IGNORECASE)  # Excel's line that says so
    delimiter = named[1] if named else _separator(text, usual)
    try:
        return _read_rows(path, text[named.end() :] if named else text, column, delimiter)
    except InputError as error:
        raise InputError(f"{error} (columns are separated by {delimiter!r})") from error


def _separator(text: str, usual: str) -> str:
    """What separates the columns: of what splits the header, what splits all rows into as many, and into most."""
    columns: dict[str, int] = {}
    consistent: dict[str, int] = {}
    for delimiter in dict.fromkeys((usual, *_SEPARATORS)):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            columns[delimiter] = len(next((row for row in rows if row), []))
            if all(len(row) == columns[delimiter] for row in rows if row):
                consistent[delimiter] = columns[delimiter]
        except csv.Error:
            continue
    split = [{key: count for key, count in found.items() if count > 1} for found in (consistent, columns)]
    found = next(filter(None, split), {usual: 1})
    return max(found, key=lambda delimiter: found[delimiter])  # the first of equal ones, the usual one before others


def _read_rows(path: Path, text: str, column: str | None, delimiter: str) -> list[str]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    prompts: list[str] = []
    header: list[str] | None = None
    index = 0
    try:
        for row in lines:
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                index = header.index(choose_column(str(path), header, column))
            elif len(row) != len(header):
                raise InputError(f"{path}: line {lines.line_num} has {len(row)} fields, the header has {len(header)}")
            else:
                prompts.append(row[index])
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num}: {error}") from error
    return prompts


def _read_tsv(path: Path, column: str | None) -> list[str]:
    return _read_csv(path, column, usual="\t")


def _read_jsonl(path: Path, column: str | None) -> list[str]:
    prompts: list[str] = []
    chosen = column
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON: {getattr(error, 'msg', error)}") from error
        if isinstance(value, dict):
            if chosen is None or chosen not in value:
                # Objects may differ in their keys; the choice made on the first one must hold for all.
                chosen = choose_column(where, list(value), chosen)
            value = value[chosen]
        elif column is not None:
            raise InputError(f"column: {column!r} was given, but {where} is not an object")
        prompts.extend(_texts([value], where))
    return prompts


def _read_parquet(path: Path, column: str | None) -> list[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "sweep") from None

    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            chosen = choose_column(str(path), names, column)
            values = file.read(columns=[chosen]).column(chosen).to_pylist()
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a whole parquet file") from error
    return _texts(values, f"{path}: column {chosen!r}")


def _texts(values: Iterable[Any], where: str) -> list[str]:
    """Check that values are text that can be encoded; missing ones are left out."""
    texts = []
    for value in values:
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}: {_short(value)} is not text")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{where}: {_short(value)} holds a character that is not text")
        texts.append(value)
    return texts


def _short(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."


READERS: dict[str, Callable[[Path, str | None], list[str]]] = {
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
