"""Options that several commands share, and how their values are read."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number

from sparseact.errors import InputError
from sparseact.utils.plain_json import to_json

SHARED = Group("Shared options", sort_key=9)


def _split_names(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    names = tuple(part.strip() for token in tokens for part in token.value.split(","))
    if "" in names:
        given = ",".join(token.value for token in tokens)
        raise InputError(f"{tokens[0].keyword}: an empty name in the list {given!r}")
    return names


def _split_numbers(_: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    numbers = []
    for token in tokens:
        for part in token.value.split(","):
            try:
                numbers.append(float(part))
            except ValueError:
                raise InputError(f"{token.keyword}: {part.strip()!r} is not a number") from None
    return tuple(numbers)


def _read_correction(_: Any, tokens: Sequence[Token]) -> float | Literal["auto"]:
    (token,) = tokens
    if token.value == "auto":
        return "auto"
    try:
        return float(token.value)
    except ValueError:
        raise InputError(f"--correction: {token.value!r} is neither a number nor auto") from None


def _read_share(_: Any, tokens: Sequence[Token]) -> float:
    (token,) = tokens
    number, percent, rest = token.value.strip().partition("%")
    try:
        if rest:
            raise ValueError(rest)
        share = float(number) / (100 if percent else 1)
    except ValueError:
        raise InputError(f"{token.keyword}: {token.value!r} is neither a share such as 0.01 nor 1%") from None
    return share


def _with_commas(values: tuple[object, ...]) -> str:
    return ",".join(str(value) for value in values)


# A list is written with commas, or the option is repeated.
_names = Parameter(converter=_split_names, n_tokens=1, negative=(), show_default=_with_commas)
Names = Annotated[tuple[str, ...], _names]
_numbers = Parameter(converter=_split_numbers, n_tokens=1, negative=(), show_default=_with_commas)
Numbers = Annotated[tuple[float, ...], _numbers]
NumbersOrNone = Annotated[tuple[float, ...] | None, _numbers, Parameter(show_default=False)]
Correction = Annotated[float | Literal["auto"], Parameter(converter=_read_correction, n_tokens=1, show_choices=False)]
Share = Annotated[float, Parameter(converter=_read_share, n_tokens=1)]
NamesIfAny = Annotated[tuple[str, ...], _names, Parameter(show_default=False)]
Strings = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]  # as they are, commas and all
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]  # off unless given
DType = Literal["float32", "bfloat16", "float16", "float64"]
ModelName = Annotated[str, Parameter(name="--model", group=SHARED)]


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True)
class Shared:
    """What every command takes."""

    seed: int = 0
    """Seed of everything that is drawn at random."""

    threads: Count | None = None
    """Threads to compute with; by default torch decides, and the engine takes all processors."""

    device: str = "auto"
    """auto, cpu, cuda or mps; what was used is reported."""

    json: Flag = False
    """Write one JSON object to standard output and nothing else."""

    @contextmanager
    def session(self, *, with_torch: bool = True) -> Iterator[None]:
        """Set the threads of torch, if it is used; keep standard output for the answer, whatever a library prints."""
        if with_torch and self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        with redirect_stdout(sys.stderr):
            yield

    def answer(self, record: dict[str, Any] | list[dict[str, Any]], text: str) -> str:
        """What the command prints: `record` as JSON, or `text` for a reader."""
        if not self.json:
            return text
        written = to_json(record)
        try:
            written.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:  # a terminal that cannot print it gets it escaped as JSON does
            return to_json(record, ascii_only=True)
        return written
