"""A disk that refuses to write or to read, said in one line."""

from __future__ import annotations

import errno
import os
import re
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
# A file of wrong content makes its reader ask for impossible places; such answers say nothing of the disk.
OF_CONTENT = {errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ENOENT}
# How libraries in other languages write an error's number: HDF5, Arrow, Rust.
NUMBERED = re.compile(r"(?:errno(?: =)? |os error )(\d+)")
REMEDIES = {
    errno.EACCES: "make it readable for you",
    errno.EPERM: "make it readable for you",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "allow more open files on this machine",
    errno.ENOMEM: "give the job more memory (`resources:` in the config)",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a file",
}
FAILING = "see whether the disk or the network file system works"
# Of writers that do not say why they failed: fewer free bytes than this are none.
NOTHING_FREE = 2**16


class StorageError(OSError):
    """A file cannot be written or read; the message names it, the cause and what to do."""


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


def not_read(path: str | Path, error: BaseException) -> StorageError | None:
    """Return the error for a file that the system did not let us read; None if the cause is its content.

    Only a file whose content is wrong may be called damaged. For use where damage is reported:
    `raise not_read(path, error) or DamagedError(…) from error`.

    Args:
        path: the file.
        error: what its reader raised.
    """
    number = system_error(error)
    if number is None and isinstance(error, FileNotFoundError) and Path(path).is_file():
        # Safetensors calls every file missing that it cannot open.
        number = opening_error(path)
    if number is None or number in OF_CONTENT:
        return None
    refused = StorageError(
        f"{path}: cannot be read ({os.strerror(number)}). The file itself may be whole, do not delete it: "
        f"{REMEDIES.get(number, FAILING)}, then run snakemake again"
    )
    refused.errno = number
    return refused


def system_error(error: BaseException) -> int | None:
    """Return the number of the system's error that an exception, or what led to it, tells of."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(number := getattr(one, "errno", None), int):
            return number
        # A ValueError's text quotes what was read.
        if not isinstance(one, ValueError) and (found := NUMBERED.search(str(one))):
            return int(found[1])
        one = one.__cause__ or one.__context__
    return None


def opening_error(path: str | Path) -> int | None:
    """Return the number of the error with which a file cannot be opened; None if it can."""
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return error.errno


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system of a folder that may not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
