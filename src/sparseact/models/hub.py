"""Models of the hub: their files, by way of the hub's own cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sparseact.errors import InputError, unknown_name
from sparseact.models.builtin import BUILTIN
from sparseact.models.quiet import first_line

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def snapshot(name: str) -> Path:
    """The folder of a model of the hub in the hub's cache, fetched if need be and if there is a network.

    Raises:
        InputError: there is no such model, it cannot be reached, or has no safetensors files.
    """
    folder = _download(name, _FILES)
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model: {name}: the hub has no safetensors files of it")
    return folder


def fetch_config(name: str) -> Path:
    """As `snapshot`, a folder with config.json, and other files if they were fetched before.

    Raises:
        InputError: there is no such model, or it cannot be reached.
    """
    return _download(name, ["config.json"])


def _download(name: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _quiet():
        reachable = _is_on_hub(name)
        try:
            return Path(
                snapshot_download(name, allow_patterns=files, ignore_patterns=["*/*"], local_files_only=not reachable)
            )
        except Exception as error:
            reason = first_line(error) if reachable else "the hub cannot be reached and its cache has no copy"
            raise _unknown_model(name, reason) from error


def _is_on_hub(name: str) -> bool:
    """Ask the hub for the model once, because its library retries for half a minute without a network.

    Returns:
        True if the model is there, False if the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unknown_model(name, "the hub has no such model either") from error
    except HfHubHTTPError as error:
        raise InputError(f"model: {name}: the hub refuses it: {first_line(error)}") from error
    except Exception:  # noqa: BLE001 - the type depends on which HTTP client the hub's library uses
        return False
    return True


def _unknown_model(name: str, reason: str) -> InputError:
    return unknown_name(f"model: no such file or folder, and {reason}; unknown built-in model", name, BUILTIN)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
