"""The errors that a user can cause, each with one line that says what to change."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class SparseactError(Exception):
    """Base of every error that sparseact raises on purpose."""


class InputError(SparseactError, ValueError):
    """The user's mistake: an option, a file or a model that cannot be used.

    The message is one line that names the parameter or file, what was found and what is valid. A parameter stands at
    its beginning, before a colon, or later in `backquotes`: the command line makes a --flag of it, and exits 2.
    """


class UnsupportedModelError(InputError):
    """A model whose units could not be found, or of a kind that is not supported."""


class UnsupportedRecipeError(InputError):
    """A recipe of a policy that the engine does not run."""


class MissingExtraError(InputError):
    """A part of sparseact was asked for whose optional dependencies are not installed."""

    def __init__(self, package: str, extra: str, why: str = "") -> None:
        because = f"{why}, and " if why else ""
        super().__init__(f"{because}{package} is not installed; it comes with: pip install 'sparseact[{extra}]'")
        self.package = package
        self.extra = extra


class NotFiniteError(InputError):
    """What a model computes is not a finite number, as damaged weights make it, or a type too narrow for them."""

    def __init__(self, what: str = "the model's logits") -> None:
        super().__init__(f"{what} are not finite numbers; its weights may be damaged, or their type too narrow")


def require(extra: str, *packages: str) -> None:
    """Raise a MissingExtraError if one of the packages of an extra is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra)


def unknown_name(option: str, found: str, valid: Iterable[str]) -> InputError:
    """An error for a name that is not one of a known set.

    Args:
        option: where the name was given, with the noun it should be: "metrics: unknown metric".
            Without a noun ("metrics"), "unknown value" is said.
        found: the name that was given.
        valid: the names that would have been right, in the order to list them.

    Returns:
        To be raised, with a line such as "metrics: unknown metric 'gox'. Did you mean gxo? Valid: magnitude, gxo."
    """
    names = list(valid)
    head = option if "unknown" in option else f"{option}: unknown value"
    by_lower_case = {name.lower(): name for name in names}
    close = get_close_matches(found.lower(), by_lower_case, n=1, cutoff=0.6)
    hint = f" Did you mean {by_lower_case[close[0]]}?" if close else ""
    return InputError(f"{head} {found!r}.{hint} Valid: {', '.join(names)}.")
