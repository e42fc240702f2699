"""A disk that is full or read-only, said in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "it is too large",
}
CLOSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
}
# Of writers that do not say why they failed: fewer free bytes than this are none.
NOTHING_FREE = 2**16


class StorageError(OSError):
    """An output cannot be written; the message names it, the cause and what to do."""


@contextmanager
def explaining(target: Path, causes: dict[int, str] | None = None) -> Iterator[None]:
    """Turn a disk's refusal into a StorageError; other errors pass.

    Args:
        target: the output.
        causes: error numbers that tell of the output's disk; all if None. What is done beside writing
            the output may be refused for other reasons.

    Raises:
        StorageError: the disk refused.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = refusal(error, causes or FULL | CLOSED, target.parent)
        if number is None:
            raise
        cause = (FULL | CLOSED)[number]
        refused = StorageError(
            f"{target}: cannot be written, {cause} ({free_bytes(target.parent)} bytes are free there); free "
            "some space or make the folder writable, then run snakemake again: what was finished is kept"
        )
        refused.errno = number
        raise refused from error


def refusal(error: BaseException, causes: dict[int, str], folder: Path) -> int | None:
    """Return the number of a disk's refusal; None if an error, or what led to it, tells of none."""
    one: BaseException | None = error
    while one is not None:
        for number in causes:
            # Libraries in other languages tell the cause in words alone.
            if getattr(one, "errno", None) == number or os.strerror(number) in str(one):
                return number
        one = one.__cause__ or one.__context__
    if type(error) in (OSError, RuntimeError) and free_bytes(folder) < NOTHING_FREE:
        return errno.ENOSPC
    return None


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system of a folder that may not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
