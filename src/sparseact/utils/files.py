"""Writing files so that a reader never sees half of one."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from platform import node

from sparseact.errors import InputError

_NO_SPACE = "no space left on the device"
_USERS_TO_MEND = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffix, because writers choose a format by it. After an error the
    temporary file is removed and whatever stood at `path` is still there; that of a process which was
    killed is removed by the next one that writes `path`. Missing parent folders are made.

    Raises:
        InputError: no space, no permission, or another fault of the place that was asked for.
    """
    target = Path(path)
    temporary = target.with_name(f".partial-{node()}-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        _remove_left_behind(target)
        yield temporary
        temporary.replace(target)
    except Exception as error:
        reason = fault_of_the_place(error)
        if reason is None:
            raise
        raise InputError(f"cannot write {target}: {reason}; what stood there before is unchanged") from error
    finally:
        # The folder itself may be what is missing or forbidden; there is nothing to remove then.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_left_behind(target: Path) -> None:
    """Temporary files of `target` that processes of this machine did not live to rename."""
    for path in target.parent.glob(f".partial-{escape(node())}-*-{escape(target.name)}"):
        pid = path.name.removeprefix(f".partial-{node()}-").removesuffix(f"-{target.name}")
        if pid.isdecimal() and not _is_running(int(pid)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # elsewhere there is no signal that only asks
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def check_folder(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before the work that is to end there; nothing is left in it.

    Raises:
        InputError: says why.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    trial = folder / f".trial-{os.getpid()}"
    try:
        with write_atomically(trial) as temporary:
            temporary.write_bytes(bytes(4096))
    except InputError as error:
        raise InputError(f"out: {folder} cannot be written: {fault_of_the_place(error.__cause__)}") from error
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)
            for parent in made:
                parent.rmdir()


def save_somewhere(folder: Path, save: Callable[[Path], object]) -> None:
    """Save what was long in the making in a folder, or, where the disk has become full, in a temporary one.

    Raises:
        InputError: it is not in `folder`; where it is.
    """
    try:
        save(folder)
    except InputError as error:
        other = None
        try:
            other = Path(tempfile.mkdtemp(prefix="sparseact-"))
            save(other)
        except (InputError, OSError):
            if other is not None:
                shutil.rmtree(other, ignore_errors=True)
            raise error from None
        raise InputError(f"{error}; what was computed is in {other}") from error


def fault_of_the_place(error: BaseException | None) -> str | None:
    """What a user has to mend of the place that was to be written; None for another error."""
    if isinstance(error, OSError) and error.errno in _USERS_TO_MEND:
        return _USERS_TO_MEND[error.errno]
    # safetensors and pyarrow wrap the system's error in one of their own, without its number.
    if os.strerror(errno.ENOSPC) in str(error):
        return _NO_SPACE
    return None
