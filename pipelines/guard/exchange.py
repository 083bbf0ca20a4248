"""The exchange store over HTTPS, for sites: behind the guard, in the same API server.

``GET`` and ``HEAD`` read (``Range`` as in RFC 9110), ``PATCH`` appends a part of an artefact at
``Upload-Offset`` of ``Upload-Length`` bytes; whoever was cut off asks for the offset (``HEAD`` with
``Repr-Digest``) and goes on.  An artefact is published when it is whole and has its digest
(``Repr-Digest``, RFC 9530), in one step, and never changed.  Which keys a site may use is the guard's
to say; this app serves nobody whom the guard has not named.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from folkmoot.errors import FolkmootError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from pipelines.guard.asgi import SITE
from pipelines.guard.join import Invitations

__all__ = ["exchange_app"]

_CHUNK = 1 << 20
_KEPT_PARTS = 7 * 86400.0


def exchange_app(
    store: ExchangeStore,
    parts: Path,
    invitations: Invitations | None = None,
    facts: dict[str, Any] | None = None,
) -> Starlette:
    """The app that is mounted at ``/exchange``.

    Parameters
    ----------
    store : ExchangeStore
        The coordinator's own store.
    parts : Path
        Folder for uploads that are not whole yet, on the store's own file system where it is a folder.
    invitations : Invitations, optional
        Takes in sites that hold an invitation; nobody joins without.
    facts : dict, optional
        What ``hello`` tells a member: versions, federation.
    """
    shelf = _Shelf(store, parts)
    return Starlette(
        routes=[
            Route("/v1/{key:path}", _answered(shelf.read), methods=["GET", "HEAD"]),
            Route("/v1/{key:path}", _answered(shelf.write), methods=["PATCH"]),
            Route("/hello", _answered(_Hello(facts or {})), methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/join", _Join(invitations), methods=["POST"]),
        ]
    )


Answer = Callable[[Request, str], Awaitable[Response]]


def _answered(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Only for a site that the guard has named; its errors as the client knows them."""

    async def endpoint(request: Request) -> Response:
        site = request.scope.get(SITE)
        if not isinstance(site, str):
            return _error(401, "unguarded")
        try:
            return await answer(request, site)
        except ClientDisconnect:
            return _error(400, "cut-off")
        except TransientError as error:
            return _error(507 if error.code == "transient.disk-full" else 503, error.code)
        except FolkmootError as error:
            return _error(409 if error.code == "protocol.conflict" else 400, error.code)

    return endpoint


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "guarded", "time": int(time.time())})


class _Hello:
    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    async def __call__(self, request: Request, site: str) -> Response:
        return JSONResponse({**self._facts, "site": site, "time": int(time.time())})


class _Join:
    def __init__(self, invitations: Invitations | None) -> None:
        self._invitations = invitations

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            values = await request.json()
            if self._invitations is None:
                raise ProtocolError("protocol.refused", "Nobody may join here.", "Ask why.")
            told = await run_in_threadpool(self._invitations.accept, values)
            response: Response = JSONResponse(told)
        except (ValueError, TypeError):
            response = _error(400, "body")
        except FolkmootError as error:
            response = _error(403, error.message)
        await response(scope, receive, send)


class _Shelf:
    """One store, read and written for sites."""

    def __init__(self, store: ExchangeStore, parts: Path) -> None:
        self._store, self._parts = store, parts
        self._members: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._digests: OrderedDict[tuple[str, int, int], str] = OrderedDict()
        self._busy: set[Path] = set()
        self._hashing: dict[Path, tuple[int, Any]] = {}

    # Reading --------------------------------------------------------------------------------

    async def read(self, request: Request, site: str) -> Response:
        """A published artefact, whole or a range of it."""
        key = request.path_params["key"]
        if not await self._takes_part(key, site):
            return _error(403, "run")
        path = self._store.path(key)
        if path is None:
            data = await run_in_threadpool(self._store.find, key)
            if data is None:
                return await self._absent(request, site, key)
            headers = {"repr-digest": _structured(hashlib.sha256(data).hexdigest())}
            return Response(data, media_type=_TYPE, headers={**headers, **_PLAIN})
        try:
            stat = path.stat()
        except OSError:
            return await self._absent(request, site, key)
        digest = await self._digest(path, stat)
        headers = {"repr-digest": _structured(digest), "etag": f'"{digest}"', **_PLAIN}
        return FileResponse(path, media_type=_TYPE, stat_result=stat, headers=headers)

    async def _absent(self, request: Request, site: str, key: str) -> Response:
        """Not there; how far an upload of these bytes has come, where one was begun."""
        digest = _plain_digest(request.headers.get("repr-digest", ""))
        headers = {}
        if digest is not None:
            part = self._part(site, key, digest)
            headers["upload-offset"] = str(part.stat().st_size if part.exists() else 0)
        return _error(404, "missing", headers)

    async def _digest(self, path: Path, stat: os.stat_result) -> str:
        mark = (str(path), stat.st_ino, stat.st_mtime_ns)
        if mark not in self._digests:
            self._digests[mark] = await run_in_threadpool(_hash, path)
            while len(self._digests) > 4096:
                self._digests.popitem(last=False)
        return self._digests[mark]

    # Writing --------------------------------------------------------------------------------

    async def write(self, request: Request, site: str) -> Response:
        """Append a part of an artefact; publish it when it is whole."""
        key = request.path_params["key"]
        digest = _plain_digest(request.headers.get("repr-digest", ""))
        offset, total = (int(request.headers[n]) for n in ("upload-offset", "upload-length"))
        length = int(request.headers.get("content-length", "0"))
        if digest is None or offset + length > total:
            return _error(400, "upload")
        if not await self._takes_part(key, site):
            return _error(403, "run")
        part = self._part(site, key, digest)
        if part in self._busy:
            return _error(409, "upload-busy")
        self._busy.add(part)
        try:
            return await self._append(request, key, part, digest, offset, total)
        finally:
            self._busy.discard(part)

    async def _append(
        self, request: Request, key: str, part: Path, digest: str, offset: int, total: int
    ) -> Response:
        await run_in_threadpool(_prepare, part)
        have = part.stat().st_size if part.exists() else 0
        if have != offset:
            return _error(409, "upload-offset", {"upload-offset": str(have)})
        # Hashed as it comes: an upload in parts is not read again at its end.
        at, hashed = self._hashing.pop(part, (0, hashlib.sha256()))
        hashed = hashed if at == offset else (None if offset else hashlib.sha256())
        with _opened(part) as file:
            async for chunk in request.stream():
                if have + len(chunk) > total:
                    return _error(413, "size")
                if len(chunk) > 1 << 16:
                    await run_in_threadpool(_take, file, hashed, chunk)
                else:
                    _take(file, hashed, chunk)
                have += len(chunk)
        if have < total:
            if hashed is not None and len(self._hashing) < 1024:
                self._hashing[part] = (have, hashed)
            return Response(status_code=204, headers={"upload-offset": str(have)})
        found = hashed.hexdigest() if hashed else await run_in_threadpool(_hash, part)
        if found != digest:
            part.unlink(missing_ok=True)
            return _error(422, "digest")
        created = await run_in_threadpool(self._store.adopt, key, part)
        part.unlink(missing_ok=True)
        return Response(status_code=201 if created else 409)

    def _part(self, site: str, key: str, digest: str) -> Path:
        name = hashlib.sha256(f"{key}\n{digest}".encode()).hexdigest()
        return self._parts / site / name

    async def _takes_part(self, key: str, site: str) -> bool:
        """Whether the key belongs to a run that was opened with this site."""
        federation, _, run, *_ = key.split("/")
        name = f"{federation}/runs/{run}/{keys.RUN}"
        if name not in self._members:
            data = await run_in_threadpool(self._store.find, name)
            if data is None:
                return False
            sites = json.loads(data)["params"]["federation"]["sites"]
            self._members[name] = frozenset(map(str, sites))
            while len(self._members) > 256:
                self._members.popitem(last=False)
        return site in self._members[name]


_TYPE = "application/octet-stream"
#: Bytes of a site, whatever they are, are never shown as a page.
_PLAIN = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-disposition": "attachment",
}


def _take(file: Any, hashed: Any, chunk: bytes) -> None:
    if hashed is not None:
        hashed.update(chunk)
    file.write(chunk)


def _opened(part: Path) -> Any:
    return os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _prepare(part: Path) -> None:
    """The folder, without parts that nobody came back for."""
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in part.parent.iterdir():
        if old != part and time.time() - old.stat().st_mtime > _KEPT_PARTS:
            old.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _structured(digest: str) -> str:
    """A SHA-256 as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def _plain_digest(text: str) -> str | None:
    body = text.removeprefix("sha-256=:").removesuffix(":")
    if len(text) != len(body) + 10:
        return None
    try:
        raw = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def _error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"reason": reason}, status_code=status, headers=headers)
