"""What other packages add: named objects behind entry points."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from sparseact.errors import InputError

Thing = TypeVar("Thing")


def with_plugins(group: str, builtin: Mapping[str, Thing]) -> dict[str, Thing]:
    """The built-in things by name, and those of other packages, which cannot replace a built-in one.

    Args:
        group: of entry points, such as `sparseact.policies`; the name of an entry point is that of the thing.

    Raises:
        InputError: a package's thing cannot be imported.
    """
    found = dict(builtin)
    for point in entry_points(group=group):
        if point.name not in builtin:
            try:
                found[point.name] = point.load()
            except Exception as error:  # another package's import raises what it likes
                kind = group.removeprefix("sparseact.")
                raise InputError(f"{kind}: {point.name} ({point.value}) cannot be imported: {error}") from error
    return found
