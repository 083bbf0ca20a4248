"""The coordinator's store as sites may use it: artefacts read in ranges, written in parts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import FileResponse, Response

from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from pipelines.guard.staging import LINKED, Staging
from pipelines.guard.uploads import Uploads

__all__ = ["No", "Part", "Shelf"]

_TYPE = "application/octet-stream"
#: Bytes of a site, whatever they are, are never shown as a page.
_PLAIN = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-disposition": "attachment",
}
_STATUS = {"upload-offset": 409, "size": 413, "unfinished": 413, "cut-off": 408}


class No(Exception):
    """An answer without what was asked for: status, reason, and how far an upload has come."""

    def __init__(self, status: int, reason: str, offset: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.offset = status, reason, offset


@dataclass(frozen=True)
class Part:
    """What an upload says of itself: where its bytes belong, how long and what the whole is."""

    offset: int
    total: int
    digest: str
    length: int


class _File(FileResponse):
    chunk_size = 1 << 20


class Shelf:
    """One store, read and written for sites.

    Parameters
    ----------
    store : ExchangeStore
        The coordinator's own.
    uploads : Uploads
        Where artefacts lie that are not whole yet.
    direct : int, optional
        Bytes above which sites that ask for it read from, and upload to, an S3 store by themselves.
    """

    def __init__(self, store: ExchangeStore, uploads: Uploads, direct: int | None = None) -> None:
        self._store, self._uploads, self._direct = store, uploads, direct
        self._hashed: OrderedDict[str, str] = OrderedDict()
        self._staging = None if direct is None else Staging(store)
        self._members: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._digests: OrderedDict[tuple[str, int, int], str] = OrderedDict()

    async def read(
        self, key: str, site: str, begun: str | None, elsewhere: bool = False
    ) -> Response:
        """A published artefact; ``begun`` is the digest of an upload that is asked about.

        With ``elsewhere`` a large one of an S3 store is answered by a link that works for minutes.

        Raises
        ------
        No
            403 for runs without this site; 404, with the offset of the upload.
        """
        await self._takes_part(key, site)
        path = self._store.path(key)
        if path is None:
            if elsewhere and self._direct is not None:
                link = await asyncio.to_thread(self._link, key)
                if link is not None:
                    return Response(status_code=307, headers={**link, "cache-control": "no-store"})
            data = await asyncio.to_thread(self._store.find, key)
            if data is None:
                raise self._absent(key, site, begun)
            digest = hashlib.sha256(data).hexdigest()
            headers = {"repr-digest": structured(digest), "etag": f'"{digest}"'}
            return Response(data, media_type=_TYPE, headers={**headers, **_PLAIN})
        try:
            found = path.stat()
        except OSError:
            raise self._absent(key, site, begun) from None
        if not stat.S_ISREG(found.st_mode):
            raise self._absent(key, site, begun)
        digest = await self._digest(path, found)
        headers = {"repr-digest": structured(digest), "etag": f'"{digest}"', **_PLAIN}
        return _File(path, media_type=_TYPE, stat_result=found, headers=headers)

    async def write(
        self, key: str, site: str, part: Part, stream: AsyncIterator[bytes], prefer: str = ""
    ) -> Response:
        """Append a part of an artefact; publish it when it is whole and has its digest.

        An empty part that prefers ``redirect`` is answered by a link to a place in an S3 store, where
        the artefact is large; one that prefers ``fetch`` brings what lies there.

        Raises
        ------
        No
            With a reason, and the offset to go on from where that helps.
        TransientError
            Where the coordinator's disk does not take it.
        """
        if part.offset + part.length > part.total:
            raise No(400, "upload")
        await self._takes_part(key, site)
        file = self._uploads.path(site, key, part.digest)
        place, offset = f"{site}/{int(part.digest[0], 16) % 2}", part.offset
        staging = self._staged(part) if prefer in {"redirect", "fetch"} else None
        if staging is not None and prefer == "redirect":
            link = await staging.link(place, part.total)
            headers = {"location": link, "cache-control": "no-store"}
            return Response(status_code=307, headers=headers)
        if staging is not None:
            offset = file.stat().st_size if file.exists() else 0
            if await staging.size(place) != part.total:
                await staging.drop(place)
                raise No(409, "upload-offset", offset)  # the site may send it by itself
            stream = staging.pieces(place, offset, part.total)
        done = await self._uploads.append(file, offset, part.total, stream)
        if done.fault is not None:
            raise No(_STATUS[done.fault], done.fault, done.size)
        if done.digest is None:
            return Response(status_code=204, headers={"upload-offset": str(done.size)})
        if staging is not None:
            await staging.drop(place)
        if done.digest != part.digest:
            self._uploads.drop(file)
            raise No(422, "digest") if staging is None else No(409, "upload-offset", 0)
        created = await asyncio.to_thread(self._store.adopt, key, file)
        self._uploads.drop(file)
        return Response(status_code=201 if created else 409)

    def _staged(self, part: Part) -> Staging | None:
        """Where the bytes of an empty part come from, of an artefact that is large."""
        large = self._direct is not None and part.total > self._direct
        return self._staging if large and not part.length else None

    def _link(self, key: str) -> dict[str, str] | None:
        """Headers that send a site to the store; the digest is taken once, of what lies there."""
        found = self._store.link(key, LINKED)
        if found is None or self._direct is None or found[1] <= self._direct:
            return None
        url, size = found
        if key not in self._hashed:
            self._hashed[key] = self._store.digest(key)
            while len(self._hashed) > 4096:
                self._hashed.popitem(last=False)
        return {
            "location": url,
            "repr-digest": structured(self._hashed[key]),
            "upload-length": str(size),
        }

    def _absent(self, key: str, site: str, begun: str | None) -> No:
        if begun is None:
            return No(404, "missing")
        file = self._uploads.path(site, key, begun)
        return No(404, "missing", file.stat().st_size if file.exists() else 0)

    async def _digest(self, path: Path, found: os.stat_result) -> str:
        mark = (str(path), found.st_ino, found.st_mtime_ns)
        if mark not in self._digests:
            self._digests[mark] = await asyncio.to_thread(_hash, path)
            while len(self._digests) > 4096:
                self._digests.popitem(last=False)
        return self._digests[mark]

    async def _takes_part(self, key: str, site: str) -> None:
        """Only where the key belongs to a run that was opened with this site."""
        federation, _, run, *_ = [*key.split("/"), "", ""]
        name = f"{federation}/runs/{run}/{keys.RUN}"
        if name not in self._members:
            data = await asyncio.to_thread(self._store.find, name)
            if data is None:
                raise No(403, "run")
            sites = json.loads(data)["params"]["federation"]["sites"]
            self._members[name] = frozenset(map(str, sites))
            while len(self._members) > 256:
                self._members.popitem(last=False)
        if site not in self._members[name]:
            raise No(403, "run")


def structured(digest: str) -> str:
    """A SHA-256 as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def plain_digest(text: str) -> str | None:
    """The hexadecimal digest in a ``Repr-Digest``; None where it is not one SHA-256."""
    body = text.removeprefix("sha-256=:").removesuffix(":")
    if len(text) != len(body) + 10:
        return None
    try:
        raw = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
