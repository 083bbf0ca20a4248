"""What the exchange store keeps its artefacts in: a folder, or any other fsspec filesystem."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from folkmoot.errors import ConfigError, TransientError

__all__ = ["Backend", "Folder", "Remote", "read_all", "read_open", "transient", "write_all"]

_PIECE = 128 * 1024
_MOST = 2**30
#: Artefacts of these sizes are kept until they are read once: histograms, a moment after they were made.
_KEPT, _KEPT_BYTES = 8, range(64 * 1024, 4 * 1024 * 1024)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Backend(Protocol):
    """What keeps the artefacts: whole or absent, and each key once."""

    def create(self, key: str, data: bytes, digest: str) -> bool:
        """Keep ``data`` of that SHA-256 under ``key``; False where the key is taken."""

    def read(self, key: str) -> bytes | None:
        """What is kept under ``key``, or None."""

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder, in any order."""


class Folder:
    """A local folder: written beside, then linked into place, so that a key is whole or absent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = f"{root}{os.sep}"  # plain strings: a round opens some thirty files
        self._lately: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def create(self, key: str, data: bytes, digest: str) -> bool:
        """As :meth:`Backend.create`."""
        path = self._prefix + key
        if os.path.exists(path):
            return False
        folder = os.path.dirname(path)
        part = os.path.join(folder, f".part-{os.getpid()}-{secrets.token_hex(8)}")
        try:
            try:
                file = os.open(part, _NEW, 0o600)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
                file = os.open(part, _NEW, 0o600)
            try:
                write_all(file, data)
            finally:
                os.close(file)
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise transient(error, key) from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part)
        self._keep(path, data)
        return True

    def link(self, key: str, twin: str, data: bytes) -> bool:
        """Publish a file of these bytes as it lies, where the file system and the key allow it."""
        path = self._prefix + key
        for _ in range(2):
            try:
                os.link(twin, path)
                self._keep(path, data)
                return True
            except FileNotFoundError:
                with contextlib.suppress(OSError):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError:  # taken, on another file system, or one without links
                break
        return False

    def read(self, key: str) -> bytes | None:
        """As :meth:`Backend.read`."""
        path = self._prefix + key
        kept = self._lately.pop(path, None)
        try:
            if kept is not None and kept[0] == _stamp(path):
                return kept[1]
            return read_all(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise transient(error, key) from None

    def remove(self, keys: Sequence[str]) -> int:
        """Remove what is kept under these keys; how many were."""
        gone = 0
        for key in keys:
            try:
                os.unlink(self._prefix + key)
                gone += 1
            except FileNotFoundError:
                pass
            except OSError as error:
                raise _not_removed(error) from None
        return gone

    def _keep(self, path: str, data: bytes) -> None:
        """Remember what was just put, for as long as the file stays as it is, to be read once."""
        if len(data) in _KEPT_BYTES:
            with contextlib.suppress(OSError):
                self._lately[path] = _stamp(path), data
            while len(self._lately) > _KEPT:
                self._lately.pop(next(iter(tuple(self._lately)), ""), None)

    def names(self, folder: str) -> list[str]:
        """As :meth:`Backend.names`."""
        path = self.root / folder
        return (
            [p.name for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
        )


def _stamp(path: str) -> tuple[int, ...]:
    """What changes with a file's bytes."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read_all(path: str) -> bytes:
    """A file whole, in four calls of the system.

    :func:`open` makes seven, and in each other threads may take the interpreter.

    Raises
    ------
    OSError
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_open(file)
    finally:
        os.close(file)


def read_open(file: int) -> bytes:
    """The rest of what an open file descriptor reads."""
    size = os.fstat(file).st_size
    data = os.read(file, size + 1)
    if len(data) == size:
        return data
    pieces = [data]  # it grew, is a folder's or of more than two gigabytes
    while pieces[-1]:
        pieces.append(os.read(file, _MOST))
    return b"".join(pieces)


def write_all(file: int, data: bytes) -> None:
    """Write to a file descriptor, piece by piece.

    For megabytes in one piece Linux seeks pages of megabytes, which took five times as long as the copy.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest[:_PIECE]) :]


class Remote:
    """Any other fsspec filesystem; exclusive creation where the store can (S3: If-None-Match)."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        import fsspec

        # Listings would otherwise be remembered, and another party's artefacts not be seen.
        options.setdefault("use_listings_cache", False)
        if url.startswith(
            "s3://"
        ):  # links are signed as anything else is, also for other endpoints
            options.setdefault("config_kwargs", {"signature_version": "s3v4"})
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url, **options)
        except ImportError:
            raise ConfigError(
                "config.installation",
                f"federation.exchange: {url} needs a package that is not installed.",
                "For S3: uv pip install -e '.[s3]'; for others the fsspec package of that store.",
            ) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "config.invalid",
                f"federation.exchange: {url} cannot be opened ({type(error).__name__}).",
                "Use file:///folder, s3://bucket/prefix or another fsspec URL, and check "
                "federation.exchange_options.",
            ) from None

    def create(self, key: str, data: bytes, digest: str) -> bool:
        """As :meth:`Backend.create`."""
        path = f"{self.root}/{key}"
        try:
            if self.fs.exists(path):
                return False
            self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:  # each store has its own
            raise transient(error, key) from None
        return True

    def read(self, key: str) -> bytes | None:
        """As :meth:`Backend.read`."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{key}"))
        except FileNotFoundError:
            return None
        except Exception as error:  # each store has its own
            raise transient(error, key) from None

    def digest(self, key: str) -> str:
        """SHA-256 of what is kept, read in pieces."""
        try:
            with self.fs.open(f"{self.root}/{key}", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except Exception as error:  # each store has its own
            raise transient(error, key) from None

    def link(self, key: str, seconds: int) -> tuple[str, int] | None:
        """A presigned URL and the artefact's bytes; None on other stores than S3."""
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        if "s3" not in protocols:
            return None
        path = f"{self.root}/{key}"
        try:
            size = int(self.fs.info(path)["size"])
            return str(self.fs.sign(path, expiration=seconds)), size
        except FileNotFoundError:
            return None
        except Exception as error:  # each store has its own
            raise transient(error, key) from None

    def names(self, folder: str) -> list[str]:
        """As :meth:`Backend.names`."""
        try:
            return [
                str(p).rsplit("/", 1)[1] for p in self.fs.ls(f"{self.root}/{folder}", detail=False)
            ]
        except FileNotFoundError:
            return []
        except Exception as error:  # each store has its own
            raise transient(error, folder) from None

    def remove(self, keys: Sequence[str]) -> int:
        """As :meth:`Folder.remove`; a request per artefact and one per folder."""
        folders = {key.rpartition("/")[0] for key in keys}
        kept = {f"{folder}/{name}" for folder in folders for name in self.names(folder)}
        gone = [key for key in keys if key in kept]
        try:
            for key in gone:  # s3fs removes lists too, and keeps to itself what was refused
                self.fs.rm_file(f"{self.root}/{key}")
        except Exception as error:  # each store has its own
            raise _not_removed(error) from None
        return len(gone)


def _not_removed(error: Exception) -> TransientError:
    """What a store that keeps what it should remove is told as."""
    return TransientError(
        "transient.exchange",
        f"The exchange store did not remove artefacts ({type(error).__name__}).",
        "Check its URL, and that this account may list and delete.",
    )


def transient(error: Exception, key: str) -> TransientError:
    """What a store that did not take or give ``key`` is told as."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransientError(
            "transient.disk-full",
            f"No space is left where the exchange store keeps {key}; nothing was published.",
            "Free space and start again: finished steps are not repeated.",
        )
    return TransientError(
        "transient.exchange",
        f"The exchange store did not take or give {key} ({type(error).__name__}).",
        "Check the store's URL, rights and network; the step can be repeated.",
    )
