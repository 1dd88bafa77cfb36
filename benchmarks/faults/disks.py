"""A full disk in each command that writes: it says so, leaves nothing half-written, and works once there is room.

The disk is a tmpfs of a few kilobytes in a mount namespace of the process, which needs Linux and the right to make one.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from safetensors.numpy import load_file

from faults.child import DONE, USERS_MISTAKE, command, fork
from faults.kills import contents, differing
from faults.originals import CALIBRATE, SWEEP, TRAIN
from faults.table import Row

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
ROOMY = "64m"


def full_disks(place: Path, sizes: Sequence[int]) -> Row:
    """Each command on disks of so many KiB, and with a standard output that takes nothing."""
    row = Row("a full disk in each command that writes")
    originals = place / "originals"
    model, text = ("--model", originals / "model"), ("--text", originals / "text.txt")
    prompts = ("--prompts", originals / "text.csv", "--column", "question", "--limit", "4", "--no-report")
    generate = ("generate", "--prompt", "Why?", "--max-new-tokens", "4", "--threads", "1", "--dtype", "f32", *model)
    commands: dict[str, tuple[Any, ...]] = {
        "calibrate": (*CALIBRATE, *text, *model, "--out", "disk/out"),
        "score": ("score", "--prompt", "Why?", "--max-new-tokens", "2", *model, "--out", "disk/out"),
        "sweep": (*SWEEP, *prompts, *model, "--out", "disk/out"),
        "train": (*TRAIN, *text, *model, "--out", "disk/out"),
        "generate": (*generate, "--engine", "cpu"),
    }
    for name, arguments in commands.items():
        whole = fork(_on_a_disk(arguments, [ROOMY]), place / f"disk-{name}-whole").wait()
        if fault := whole.fault(DONE) or (whole.result[0]["status"] and whole.result[0]["said"]):
            row.add(f"{name} on a disk with room: {fault}", whole.seconds)
            continue
        for size in sizes:
            ended = fork(_on_a_disk(arguments, [f"{size}k", ROOMY]), place / f"disk-{name}-{size}").wait()
            wrong, lost = ended.fault(DONE), ""
            if ended.result:
                full, roomy = ended.result
                row.detail[f"{name}: {full['status']}"] = row.detail.get(f"{name}: {full['status']}", 0) + 1
                wrong = wrong or _wrong(full)
                kept = differing(contents(ended.place / "kept"), contents(whole.place / "kept"))
                lost = (roomy["status"] and roomy["said"]) or kept
            there = f"{name} on a disk of {size} KiB"
            row.add(wrong and f"{there}: {wrong}", ended.seconds, lost and f"{there}, with room again: {lost}")
    if Path("/dev/full").exists():
        for name, arguments in (commands | {"models": ("models",)}).items():
            ended = fork(_to_a_full_output(arguments), place / f"full-{name}").wait()
            wrong = ended.fault(USERS_MISTAKE)
            row.add(wrong and f"{name} to /dev/full: {wrong}", ended.seconds)
    return row


def _wrong(full: dict[str, Any]) -> str:
    """Of a command on a full disk."""
    if full["status"] not in {DONE, USERS_MISTAKE}:
        return f"exit code {full['status']}: {full['said']}"
    return f"half-written: {full['damaged']}" if full["damaged"] else ""


def _on_a_disk(arguments: tuple[Any, ...], sizes: list[str]) -> Callable[[], object]:
    """The same command on a disk that grows: its statuses, and which files are damaged; the folder is kept outside."""

    def work() -> list[dict[str, Any]]:
        disk, found, begin = Path("disk"), [], 0
        _mount_privately(disk)
        _keep_on(disk)
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
            status = command(*arguments)()
            sys.stderr.flush()
            said = Path("stderr").read_text(encoding="utf-8")
            last = (said[begin:].strip().splitlines() or [""])[-1]
            found.append({"status": status, "said": last, "damaged": _damaged(disk / "out")})
            begin = len(said)
        if (disk / "out").exists():
            shutil.copytree(disk / "out", "kept")
        return found

    return work


def _mount_privately(disk: Path) -> None:
    """A tmpfs that only this process sees."""
    disk.mkdir()
    user = os.getuid()
    system = ctypes.CDLL(None, use_errno=True)
    if system.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    if user:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)


def _keep_on(disk: Path) -> None:
    """Caches on the disk but for compiled code, which takes half a minute to make again."""
    from sparseact.engine.load import packed
    from sparseact.engine.simd.entry import _folder

    os.environ["NUMBA_CACHE_DIR"] = str(Path(_folder()).parent)
    os.environ["SPARSEACT_CACHE"] = str((disk / "cache").resolve())
    Path("tmp").mkdir()
    tempfile.tempdir = str(Path("tmp").resolve())
    packed.LEAST = 0  # weights of so small a model are packed anew each time otherwise


def _damaged(folder: Path) -> list[str]:
    """Files that cannot be read, and temporary ones."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            if path.name.startswith("."):
                raise ValueError("a temporary file")
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".parquet":
                pyarrow.parquet.read_table(path)
            elif not path.stat().st_size:
                raise ValueError("an empty file")
        except Exception as error:  # noqa: BLE001  whatever its reader raises
            found.append(f"{path.name} ({error})")
    return found


def _to_a_full_output(arguments: tuple[Any, ...]) -> Callable[[], object]:
    def work() -> object:
        sys.stdout = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  for as long as the process runs
        return command(*(str(argument).replace("disk/out", "out") for argument in arguments))()

    return work
