"""The command line: arguments to one library call each.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from inspect import signature
from itertools import pairwise
from shlex import quote
from typing import NoReturn

from cyclopts import App
from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError

import sparseact
from sparseact.cli.bench import bench
from sparseact.cli.calibrate import calibrate
from sparseact.cli.check import check
from sparseact.cli.eval import evaluate
from sparseact.cli.fetch import fetch
from sparseact.cli.generate import generate
from sparseact.cli.models import models
from sparseact.cli.options import Shared
from sparseact.cli.score import score
from sparseact.cli.sweep import sweep
from sparseact.cli.train import train
from sparseact.errors import InputError, MissingExtraError
from sparseact.utils.files import fault_of_the_place

DONE, OUR_FAULT, USERS_MISTAKE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141

# Which extra brings a package that some command imports.
_EXTRA_OF_PACKAGE = {
    "accelerate": "torch",
    "datasets": "datasets",
    "huggingface_hub": "torch",
    "jaxtyping": "torch",
    "lm_eval": "eval",
    "matplotlib": "report",
    "pandas": "sweep",
    "peft": "train",
    "pyarrow": "sweep",
    "sacrebleu": "sweep",
    "torch": "torch",
    "transformers": "torch",
}

app = App(
    name="sparseact",
    help="Sparse activation in small language models: which neurons and heads matter, and what leaving out the "
    "others costs.",
    version=sparseact.__version__,
    suppress_keyboard_interrupt=False,
)
COMMANDS: dict[str, Callable[..., str | None]] = {
    "models": models,
    "fetch": fetch,
    "sweep": sweep,
    "score": score,
    "calibrate": calibrate,
    "train": train,
    "eval": evaluate,
    "generate": generate,
    "bench": bench,
    "check": check,
}
for name, command in COMMANDS.items():
    app.command(command, name=name)
app.register_install_completion_command(help="Install completion for the shell in use, and exit.")


def run() -> NoReturn:
    """The command line as a process. An interrupt while Python takes down what is done changes nothing."""
    try:
        status = main()
    except KeyboardInterrupt:  # between the lines of `main`
        status = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after `sparseact`; by default the arguments of the process.

    Returns:
        The exit status: 0 done, 2 the user's mistake (one line on standard error), 1 our fault,
        130 interrupted, 141 if the reader of standard output has gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot print is no reason to lose the rest
    try:
        answer = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        if isinstance(answer, str):
            sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except KeyboardInterrupt as stop:
        kept = " ".join(getattr(stop, "__notes__", [])) or "files that were there before are unchanged"
        return _say(f"interrupted; {kept}", INTERRUPTED)
    except CycloptsError as error:
        return _say(_what_was_wrong(error), USERS_MISTAKE)
    except InputError as error:
        return _say(_with_flags(str(error)), USERS_MISTAKE)
    except Exception as error:  # noqa: BLE001  the last resort: a line instead of a traceback
        return _report_unexpected(error)
    return DONE


def _drop_output() -> None:
    """Whatever Python still flushes at exit must not complain about standard output again."""
    with suppress(OSError, ValueError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _what_was_wrong(error: CycloptsError) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, InputError):  # a converter of ours refused a value
        return str(cause)
    stray = (error.unused_tokens or [""])[0]
    if isinstance(error, UnknownCommandError) and stray.startswith("-"):
        return f"Unknown option: {stray}. Options stand after the command."
    if isinstance(error, MissingArgumentError) and (dashed := _value_with_a_dash(error)):
        return f"{dashed[0]}: its value begins with a dash; write {dashed[0]}={quote(dashed[1])}"
    if isinstance(error, UnusedCliTokensError):
        return f"Unexpected argument {stray!r}. See --help."
    return str(error)


def _value_with_a_dash(error: MissingArgumentError) -> tuple[str, str] | None:
    """The option that lacks its value and what stands behind it, where that begins like an option but is none."""
    given = list(error.root_input_tokens or [])
    names = set(error.argument.names) if error.argument is not None else set()
    for option, value in pairwise(given):
        name = value.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if option in names and value.startswith("-") and name not in _parameters():
            return option, value
    return None


def _parameters() -> set[str]:
    """Of all commands, as they are called in Python."""
    names = {name for command in COMMANDS.values() for name in signature(command).parameters}
    return names | {field.name for field in fields(Shared)} | {"list"}


def _with_flags(message: str) -> str:
    """An error of the library in the words of the command line: `max_new_tokens: ...` as --max-new-tokens: ..."""
    parameters = _parameters()

    def flag(found: re.Match[str]) -> str:
        name = found["first"] or found["later"]
        return f"--{name.replace('_', '-')}" if name in parameters else found[0]

    return re.sub(r"^(?P<first>[a-z_]+)(?=:)|`(?P<later>[a-z_]+)`", flag, message)


def _report_unexpected(error: Exception) -> int:
    if os.environ.get("SPARSEACT_DEBUG"):
        traceback.print_exception(error)
        return OUR_FAULT
    if isinstance(error, OSError) and (fault := fault_of_the_place(error)):
        _drop_output()
        return _say(f"{error.filename or 'the output cannot be written'}: {fault}", USERS_MISTAKE)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA_OF_PACKAGE:
        return _say(str(MissingExtraError(error.name, _EXTRA_OF_PACKAGE[error.name])), USERS_MISTAKE)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _say(f"internal error: {what}; please report it; set SPARSEACT_DEBUG=1 for the traceback", OUR_FAULT)


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"sparseact: {' '.join(message.split())}\n")
    return status
