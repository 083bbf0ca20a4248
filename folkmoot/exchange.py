"""The exchange store: the only place that sites and coordinator share.

Any fsspec filesystem serves: a folder by default, an S3-compatible bucket by setting.  An artefact
is written once under its key (put-if-absent): the same bytes again are welcome, other bytes are a
conflict.  Reading can demand a digest.

Keys are laid out per run::

    <federation>/runs/<run>/run.json                      params, contract and roster of the run
    <federation>/runs/<run>/round-000/agreement-<site>    levels a site could live with (recoding agreed)
    <federation>/runs/<run>/round-000/schema.json         levels that were settled on
    <federation>/runs/<run>/round-000/statistics-<site>   summed statistics
    <federation>/runs/<run>/round-RRR/update-<site>       a site's released update
    <federation>/runs/<run>/round-RRR/model               global model after round RRR
    <federation>/runs/<run>/round-RRR/record.json         who took part, metrics, stop or go on
    <federation>/runs/<run>/final/evaluation-<site>       counts on held-out rows
    <federation>/runs/<run>/final/result.json             the run's outcome

and under masks (``docs/secure-aggregation.md``)::

    <federation>/runs/<run>/secure/keys-<site>            public keys of the run's sums
    <federation>/runs/<run>/secure/shares-<site>          sealed shares for the neighbours
    <federation>/runs/<run>/secure/inbox-<site>           the boxes for a site
    <federation>/runs/<run>/secure/{keys,members}.json    who is in
    <federation>/runs/<run>/<stage>/statement-<site>      what a site says about its upload
    <federation>/runs/<run>/<stage>/survivors.json        the statements that a sum is opened for
    <federation>/runs/<run>/<stage>/answer-<site>         a site's shares that open it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.wire import digest as sha256

__all__ = ["ArtifactRef", "ExchangeStore", "write_all"]

_PIECE = 128 * 1024
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_KEY = re.compile(r"[a-z0-9][A-Za-z0-9._-]*(/[a-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class ArtifactRef:
    """Where an artefact lies and what it must hash to: all that XCom ever carries."""

    key: str
    digest: str
    size: int

    def to_dict(self) -> dict[str, str | int]:
        """As JSON values."""
        return {"key": self.key, "digest": self.digest, "size": self.size}


class _Backend(Protocol):
    def create(self, key: str, data: bytes, digest: str) -> bool: ...
    def read(self, key: str) -> bytes | None: ...
    def names(self, folder: str) -> list[str]: ...


class ExchangeStore:
    """A put-if-absent store at an fsspec URL.

    Parameters
    ----------
    url : str
        ``file:///folder``, a plain path, ``memory://…``, ``s3://bucket/prefix`` …; at a site also
        ``https://coordinator/exchange/v1``.
    options : dict, optional
        Options of the fsspec filesystem.
    """

    def __init__(self, url: str | Path, options: dict[str, Any] | None = None) -> None:
        text = str(url)
        self.url = text
        self._backend: _Backend
        if text.startswith("file://") or "://" not in text:
            self._backend = _Folder(Path(text.removeprefix("file://")))
        elif text.startswith("https://"):
            from folkmoot.exchange_https import HttpsBackend

            self._backend = HttpsBackend(text)
        else:
            self._backend = _Remote(text, dict(options or {}))

    def put(self, key: str, data: bytes, *, twin: str | None = None) -> ArtifactRef:
        """Publish ``data`` under ``key`` unless it is there; O(bytes).

        ``twin`` is a file of the same bytes that nobody will write to again: on a store that is a
        folder of the same file system it is linked instead of written a second time.

        Raises
        ------
        ProtocolError
            ``protocol.conflict`` where other bytes were published under ``key`` before.
        TransientError
            ``transient.disk-full`` or ``transient.exchange``; nothing was published.
        """
        _check(key)
        ref = ArtifactRef(key, sha256(data), len(data))
        folder = self._backend if isinstance(self._backend, _Folder) else None
        if twin is not None and folder is not None and folder.link(key, twin):
            return ref
        if not self._backend.create(key, data, ref.digest):
            existing = self._backend.read(key)
            if existing is None or sha256(existing) != ref.digest:
                raise ProtocolError(
                    "protocol.conflict",
                    f"Another artefact was already published as {key}.",
                    "Start a new run, or find out who published the other one.",
                )
        return ref

    def get(self, key: str, digest: str | None = None) -> bytes:
        """Read an artefact and check its digest where one is given.

        Raises
        ------
        ProtocolError
            ``protocol.missing`` or ``protocol.digest``.
        """
        data = self.find(key)
        if data is None:
            raise ProtocolError(
                "protocol.missing",
                f"{key} is not in the exchange store.",
                "Run the step that publishes it first.",
            )
        if digest is not None and sha256(data) != digest:
            raise ProtocolError(
                "protocol.digest",
                f"{key} does not have the digest it was referred to by.",
                "The artefact was damaged or exchanged: publish it again from its own site.",
            )
        return data

    def find(self, key: str) -> bytes | None:
        """As :meth:`get`, but None where nothing is published."""
        return self._backend.read(_check(key))

    def ref(self, key: str) -> ArtifactRef | None:
        """Reference to what is published under ``key``, or None; reads it."""
        data = self.find(key)
        return None if data is None else ArtifactRef(key, sha256(data), len(data))

    def path(self, key: str) -> Path | None:
        """Where an artefact lies, or would, on a store that is a folder; None on any other."""
        backend = self._backend
        return backend.root / _check(key) if isinstance(backend, _Folder) else None

    def digest(self, key: str) -> str:
        """SHA-256 of a published artefact of any size, read in pieces.

        Raises
        ------
        TransientError
            Where a store that is not a folder does not give it.
        """
        backend = self._backend
        return (
            backend.digest(_check(key)) if isinstance(backend, _Remote) else sha256(self.get(key))
        )

    def link(self, key: str, seconds: int) -> tuple[str, int] | None:
        """Where and how long an artefact may be read without any login; None where the store cannot say.

        Parameters
        ----------
        key : str
            The artefact.
        seconds : int
            How long the link works.

        Returns
        -------
        (str, int) or None
            A presigned URL of S3 and the artefact's bytes; None on other stores, and for what is not
            published.
        """
        backend = self._backend
        return backend.link(_check(key), seconds) if isinstance(backend, _Remote) else None

    def adopt(self, key: str, part: Path) -> bool:
        """Publish a file on the store's own file system, in one step; False where the key is taken.

        Raises
        ------
        TransientError
            ``transient.disk-full`` or ``transient.exchange``; nothing was published.
        """
        path = self.path(key)
        if path is None:
            data = part.read_bytes()
            return self._backend.create(key, data, sha256(data))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise _transient(error, key) from None
        return True

    def list(self, folder: str) -> list[str]:
        """Sorted keys directly in ``folder``."""
        return sorted(f"{folder}/{name}" for name in self._backend.names(_check(folder)))

    def files(self) -> tuple[Any, str]:
        """The fsspec file system behind it and the store's path there, for the coordinator's upkeep.

        Raises
        ------
        ConfigError
            At a site, which reaches the store through the coordinator alone.
        """
        backend = self._backend
        if isinstance(backend, _Remote):
            return backend.fs, str(backend.root)
        if isinstance(backend, _Folder):
            import fsspec

            return fsspec.filesystem("file"), str(backend.root.absolute())
        raise ConfigError(
            "config.invalid",
            f"{self.url} is the coordinator's.",
            "Do its upkeep at the coordinator.",
        )


def _check(key: str) -> str:
    if not _KEY.fullmatch(key) or ".." in key:
        raise ProtocolError(
            "protocol.format",
            "A key of the exchange store is malformed.",
            "Use relative keys only.",
        )
    return key


class _Folder:
    """A local folder: written beside, then linked into place, so that a key is whole or absent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = f"{root}{os.sep}"  # plain strings: a round opens some thirty files

    def create(self, key: str, data: bytes, digest: str) -> bool:
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
            raise _transient(error, key) from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part)
        return True

    def link(self, key: str, twin: str) -> bool:
        """Publish a file as it lies, where the file system and the key allow it."""
        path = self._prefix + key
        for _ in range(2):
            try:
                os.link(twin, path)
                return True
            except FileNotFoundError:
                with contextlib.suppress(OSError):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError:  # taken, on another file system, or one without links
                break
        return False

    def read(self, key: str) -> bytes | None:
        try:
            with open(self._prefix + key, "rb", buffering=0) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise _transient(error, key) from None

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        return (
            [p.name for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
        )


def write_all(file: int, data: bytes) -> None:
    """Write to a file descriptor, piece by piece.

    For megabytes in one piece Linux seeks pages of megabytes, which took five times as long as the copy.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest[:_PIECE]) :]


class _Remote:
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
                "For S3: pip install 'folkmoot[s3]'; for others the fsspec package of that store.",
            ) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "config.invalid",
                f"federation.exchange: {url} cannot be opened ({type(error).__name__}).",
                "Use file:///folder, s3://bucket/prefix or another fsspec URL, and check "
                "federation.exchange_options.",
            ) from None

    def create(self, key: str, data: bytes, digest: str) -> bool:
        path = f"{self.root}/{key}"
        try:
            if self.fs.exists(path):
                return False
            self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:  # each store has its own
            raise _transient(error, key) from None
        return True

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{key}"))
        except FileNotFoundError:
            return None
        except Exception as error:  # each store has its own
            raise _transient(error, key) from None

    def digest(self, key: str) -> str:
        try:
            with self.fs.open(f"{self.root}/{key}", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except Exception as error:  # each store has its own
            raise _transient(error, key) from None

    def link(self, key: str, seconds: int) -> tuple[str, int] | None:
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
            raise _transient(error, key) from None

    def names(self, folder: str) -> list[str]:
        try:
            return [
                str(p).rsplit("/", 1)[1] for p in self.fs.ls(f"{self.root}/{folder}", detail=False)
            ]
        except FileNotFoundError:
            return []
        except Exception as error:  # each store has its own
            raise _transient(error, folder) from None


def _transient(error: Exception, key: str) -> TransientError:
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
