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

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.exchange_backends import Backend, Folder, Remote, transient
from folkmoot.wire import digest as sha256

__all__ = ["ArtifactRef", "ExchangeStore"]

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
        self._backend: Backend
        if text.startswith("file://") or "://" not in text:
            self._backend = Folder(Path(text.removeprefix("file://")))
        elif text.startswith("https://"):
            from folkmoot.exchange_https import HttpsBackend

            self._backend = HttpsBackend(text)
        else:
            self._backend = Remote(text, dict(options or {}))

    def put(self, key: str, data: bytes, *, twin: str | None = None) -> ArtifactRef:
        """Publish ``data`` under ``key`` unless it is there; O(bytes).

        ``twin`` is a file of the same bytes that nobody writes to while it has a second name: on a
        store that is a folder of the same file system it is linked instead of written a second time.

        Raises
        ------
        ProtocolError
            ``protocol.conflict`` where other bytes were published under ``key`` before.
        TransientError
            ``transient.disk-full`` or ``transient.exchange``; nothing was published.
        """
        _check(key)
        ref = ArtifactRef(key, sha256(data), len(data))
        folder = self._backend if isinstance(self._backend, Folder) else None
        if twin is not None and folder is not None and folder.link(key, twin, data):
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
        return backend.root / _check(key) if isinstance(backend, Folder) else None

    def digest(self, key: str) -> str:
        """SHA-256 of a published artefact of any size, read in pieces.

        Raises
        ------
        TransientError
            Where a store that is not a folder does not give it.
        """
        backend = self._backend
        return backend.digest(_check(key)) if isinstance(backend, Remote) else sha256(self.get(key))

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
        return backend.link(_check(key), seconds) if isinstance(backend, Remote) else None

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
            raise transient(error, key) from None
        return True

    def clear(self, keys: Iterable[str]) -> int:
        """Remove artefacts that nobody will ask for again, at the coordinator; how many were there.

        Raises
        ------
        ConfigError
            At a site.
        TransientError
            ``transient.exchange`` where the store does not remove.
        """
        backend = self._backend
        if not isinstance(backend, Folder | Remote):
            raise self._not_here()
        return backend.remove([_check(key) for key in keys])

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
        if isinstance(backend, Remote):
            return backend.fs, str(backend.root)
        if isinstance(backend, Folder):
            import fsspec

            return fsspec.filesystem("file"), str(backend.root.absolute())
        raise self._not_here()

    def _not_here(self) -> ConfigError:
        return ConfigError(
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
