"""A release's bytes on the site's disk: whole or absent; durable where they cannot be made again."""

from __future__ import annotations

import os

from folkmoot.exchange_backends import write_all

__all__ = ["persist"]


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
        A file that nobody needs and that may be written over; left alone where it has a second name.

    Raises
    ------
    OSError
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.part")
    file = _taken(old, part)
    if file is None:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
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


def _taken(old: str | None, part: str) -> int | None:
    """The file that nobody needs under its new name, open to be written over; None where it is not free.

    Under the new name nobody can link it any more, so its names are counted behind that.
    """
    if old is None:
        return None
    try:
        os.rename(old, part)
        file = os.open(part, os.O_WRONLY)
    except OSError:
        return None
    if os.fstat(file).st_nlink == 1:
        return file
    os.close(file)
    os.unlink(part)
    return None
