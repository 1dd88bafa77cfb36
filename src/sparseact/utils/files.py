"""Writing files so that a reader never sees half of one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
    temporary file is removed and whatever stood at `path` is still there. Missing parent folders
    are made.

    Raises:
        InputError: no space, no permission, or another fault of the place that was asked for.
    """
    target = Path(path)
    temporary = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        yield temporary
        temporary.replace(target)
    except Exception as error:
        reason = _fault_of_the_place(error)
        if reason is None:
            raise
        raise InputError(f"cannot write {target}: {reason}; what stood there before is unchanged") from error
    finally:
        # The folder itself may be what is missing or forbidden; there is nothing to remove then.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fault_of_the_place(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno in _USERS_TO_MEND:
        return _USERS_TO_MEND[error.errno]
    # safetensors and pyarrow wrap the system's error in one of their own, without its number.
    if os.strerror(errno.ENOSPC) in str(error):
        return _NO_SPACE
    return None
