"""A release's bytes on the site's disk: whole or absent; durable where they cannot be made again.

Files may be written over once nobody needs them (``site_tasks.finished_sums``).  Whoever reads a
release that it is not just making holds a shared lock on the file meanwhile, and a file under such a
lock is not taken.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from folkmoot.exchange_backends import read_open, write_all

__all__ = ["persist", "read_stored"]


def persist(path: str, data: bytes, *, durable: bool, old: str | None = None) -> None:
    """Write whole or not at all.

    Parameters
    ----------
    path : str
        Where they are found afterwards.
    data : bytes
        What is written.
    durable : bool
        Whether they must survive a power cut.  Bytes without noise can be computed again to the same
        digest, so only noise is worth an fsync.
    old : str, optional
        A file that nobody needs and that may be written over; left alone where it has a second name,
        or is read.

    Raises
    ------
    OSError
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.part")
    file = None if old is None else _taken(old, part)
    if file is None:
        # Never into what lies there: it may have a second name.
        with suppress(FileNotFoundError):
            os.unlink(part)
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(file, data)
        os.ftruncate(file, len(data))
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
    os.replace(part, path)
    if durable:
        where = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(where)
        finally:
            os.close(where)


def read_stored(path: str | os.PathLike[str]) -> bytes | None:
    """A stored release whole; None where it is gone, or its file was taken before it could be locked.

    Raises
    ------
    OSError
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)  # waits for who writes it over
        try:
            named = os.stat(path).st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            named = False
        return read_open(file) if named else None
    finally:
        os.close(file)


def _taken(old: str, part: str) -> int | None:
    """The file that nobody needs under its new name, open to be written over; None where it is not free.

    Under the new name nobody can link it or begin to read it any more: names are counted behind that.
    """
    file = None
    try:
        os.rename(old, part)
        file = os.open(part, os.O_WRONLY | os.O_CLOEXEC)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink == 1:
            return file
    except OSError:
        pass
    if file is not None:
        os.close(file)
    return None
