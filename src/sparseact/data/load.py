"""`load_prompts` and `load_text`: from a name or a path to text."""

import json
from importlib.resources import files
from pathlib import Path

from sparseact.data.hub import DATA_SETS, load_data_set
from sparseact.data.readers import READERS, read_text
from sparseact.errors import InputError, unknown_name

_NO_COLUMNS = "column: {column!r} was given, but {what} has no columns"


def load_prompts(source: str | Path | None = None, *, column: str | None = None, limit: int | None = None) -> list[str]:
    """Prompts from the built-in questions, a file or a data set of the hub.

    Args:
        source: None for the built-in questions; a .txt file (one prompt a line), .csv, .tsv, .jsonl
            or .parquet file; or the name of a known data set (truthful_qa, ...).
        column: the column that holds the prompts; by default question, prompt or text, or the only one.
        limit: take the first `limit` prompts; all if None.

    Returns:
        At least one prompt; none is empty, and white space around them is gone.

    Raises:
        InputError: no such file, column or data set; a file that is empty, damaged or not UTF-8.
        MissingExtraError: reading this needs a package that is not installed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} is not a positive number")
    if source is None:
        if column is not None:
            raise InputError(_NO_COLUMNS.format(column=column, what="the built-in set of questions"))
        return [question["question"] for question in builtin_questions()][:limit]
    path = Path(source).expanduser()
    if str(source) in DATA_SETS and not path.exists():
        return load_data_set(str(source), column=column, limit=limit)
    suffix = _checked_suffix(source, path, "prompts")
    if suffix == ".txt" and column is not None:
        raise InputError(_NO_COLUMNS.format(column=column, what=path))
    prompts = [text for row in READERS[suffix](path, column) if (text := row.strip())]
    if not prompts:
        raise InputError(f"prompts: {path} holds no prompts")
    return prompts[:limit]


def load_text(source: str | Path) -> str:
    """Running text: a .txt file as it is, the prompts of any other source with a blank line between them.

    Raises:
        InputError: as `load_prompts`.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() != ".txt":
        if str(source) not in DATA_SETS:
            _checked_suffix(source, path, "text")
        return "\n\n".join(load_prompts(source))
    _checked_suffix(source, path, "text")
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: the file holds no text")
    return text


def builtin_questions() -> list[dict[str, str]]:
    """The built-in questions, of our own writing: `question` and `kind`.

    Kinds take turns, so any first part of the list is as varied as the whole, and so is each half
    when one half is for tuning and the other for reporting.
    """
    lines = files("sparseact.data").joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _checked_suffix(source: str | Path, path: Path, option: str) -> str:
    """The suffix of a file that is there and of a kind we read."""
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise InputError(f"{option}: {path} is a folder, not a file")
        if not path.exists():
            if suffix in READERS or len(path.parts) > 1:
                raise InputError(f"{option}: no such file: {path}")
            raise unknown_name(f"{option}: no such file, and unknown data set", str(source), DATA_SETS)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{option}: {str(source)[:80]!r} is not a path: {getattr(error, 'strerror', error)}"
        ) from error
    if suffix not in READERS:
        raise unknown_name(f"{option}: {path}: unknown kind of file", suffix, READERS)
    return suffix
