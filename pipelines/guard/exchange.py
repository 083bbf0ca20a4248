"""The exchange store over HTTPS, for sites: behind the guard, in the same API server.

``GET`` and ``HEAD`` read (``Range`` as in RFC 9110), ``PATCH`` appends a part of an artefact at
``Upload-Offset`` of ``Upload-Length`` bytes; whoever was cut off asks for the offset (``HEAD`` with
``Repr-Digest``) and goes on.  An artefact is published when it is whole and has its digest
(``Repr-Digest``, RFC 9530), in one step, and never changed.  Which keys a site may use is the guard's
to say; this app serves nobody whom the guard has not named.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Header, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from folkmoot.errors import FolkmootError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from pipelines.guard.asgi import SITE
from pipelines.guard.join import Invitations
from pipelines.guard.shelf import No, Part, Shelf, plain_digest
from pipelines.guard.uploads import Uploads

__all__ = ["exchange_app"]

_KEY = r"^[a-z0-9][A-Za-z0-9._-]*(/[a-z0-9][A-Za-z0-9._-]*){2,9}$"
_DIGEST = r"^sha-256=:[A-Za-z0-9+/]{43}=:$"
_TYPE = "application/octet-stream"
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_REFUSAL = {
    "type": "object",
    "required": ["reason"],
    "properties": {
        "reason": {"type": "string"},
        "detail": {"type": "string"},
        "time": {"type": "integer"},
    },
}


def _site(request: Request) -> str:
    site = request.scope.get(SITE)
    if not isinstance(site, str):
        raise No(401, "unguarded")
    return site


#: Every one of them is answered with a reason and no more.
_TOLD = (No, FolkmootError, RequestValidationError, HTTPException)
_Site = Annotated[str, Depends(_site)]
_Key = Annotated[str, InPath(pattern=_KEY, max_length=1000)]
_Digest = Annotated[str, Header(pattern=_DIGEST)]
_Begun = Annotated[str | None, Header(alias="repr-digest", pattern=_DIGEST)]
_Preference = Annotated[str | None, Header()]
_Number = Annotated[int, Header(ge=0, le=10**15 - 1)]


def exchange_app(
    store: ExchangeStore,
    parts: Path,
    invitations: Invitations | None = None,
    facts: dict[str, Any] | None = None,
    largest: int = 1 << 30,
    direct: int | None = None,
) -> FastAPI:
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
    largest : int
        Most bytes of one artefact; a site's unfinished uploads may take twice as much.
    direct : int, optional
        Bytes above which a site that prefers it is sent to the S3 store itself; no other store will do.
    """
    shelf, told = Shelf(store, Uploads(parts, largest), direct), dict(facts or {})
    app = FastAPI(
        title="Folkmoot exchange store",
        version="1",
        openapi_url=None,
        exception_handlers=dict.fromkeys(
            (No, FolkmootError, RequestValidationError, HTTPException), _told
        ),
    )

    @app.get("/v1/{key:path}", response_class=Response, responses=_answers("read", 403, 404))
    @app.head("/v1/{key:path}", response_class=Response, responses=_answers("head", 403, 404))
    async def read(
        key: _Key, site: _Site, begun: _Begun = None, prefer: _Preference = None
    ) -> Response:
        """A published artefact, whole or a range of it; how far an upload of it has come."""
        stated = None if begun is None else _digest(begun)
        return await shelf.read(key, site, stated, prefer == "redirect")

    @app.patch(
        "/v1/{key:path}",
        status_code=201,
        response_class=Response,
        responses=_answers("write", 403, 408, 409, 411, 413, 422, 503, 507),
        openapi_extra={"requestBody": {"required": True, "content": {_TYPE: _BYTES}}},
    )
    async def write(
        request: Request,
        key: _Key,
        site: _Site,
        repr_digest: _Digest,
        upload_offset: _Number,
        upload_length: _Number,
        prefer: _Preference = None,
    ) -> Response:
        """Append a part of an artefact; publish it when it is whole."""
        length = request.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            raise No(411, "upload")
        part = Part(upload_offset, upload_length, _digest(repr_digest), int(length))
        return await shelf.write(key, site, part, request.stream(), prefer or "")

    @app.get("/hello", responses=_answers("json"))
    async def hello(site: _Site) -> JSONResponse:
        """Who the coordinator takes the site for, and what runs there."""
        return JSONResponse({**told, "site": site, "time": int(time.time())})

    @app.get("/health")
    async def health() -> JSONResponse:
        """That the guard stands here."""
        return JSONResponse({"status": "guarded", "time": int(time.time())})

    @app.post("/join", responses=_answers("json", 403))
    async def join(values: Annotated[dict[str, Any], Body()]) -> JSONResponse:
        """Take in a site that holds an invitation."""
        if invitations is None:
            raise No(403, "Nobody may join here.")
        try:
            return JSONResponse(await asyncio.to_thread(invitations.accept, values))
        except ProtocolError as error:  # its sentences are for whoever was invited
            raise No(403, error.message) from None

    return app


def _answers(kind: str, *refused: int) -> dict[int | str, dict[str, Any]]:
    """Answers of a route, as its description lists them."""
    plain: dict[str, dict[int | str, dict[str, Any]]] = {
        "read": {200: {"content": {_TYPE: _BYTES}}, 206: {"content": {_TYPE: _BYTES}}, 307: {}},
        "head": {200: {}, 206: {}, 307: {}},
        "write": {201: {}, 204: {}, 307: {}},
        "json": {},
    }
    refusal = {} if kind == "head" else {"application/json": {"schema": _REFUSAL}}
    names = (
        (400, 401, 416, 429, *refused) if kind in {"read", "head"} else (400, 401, 429, *refused)
    )
    return plain[kind] | {
        status: {"description": "Refused", "content": refusal} for status in names
    }


def _digest(text: str) -> str:
    found = plain_digest(text)
    if found is None:
        raise No(400, "upload")
    return found


async def _told(request: Request, error: Exception) -> Response:
    """A reason: of the project's own errors the code, and nothing of what was sent."""
    if isinstance(error, No):
        headers = {} if error.offset is None else {"upload-offset": str(error.offset)}
        return JSONResponse({"reason": error.reason}, error.status, headers)
    if isinstance(error, HTTPException):
        return JSONResponse({"reason": "unknown"}, error.status_code, error.headers)
    if isinstance(error, TransientError):
        status = 507 if error.code == "transient.disk-full" else 503
    else:
        status = 409 if getattr(error, "code", "") == "protocol.conflict" else 400
    return JSONResponse({"reason": getattr(error, "code", "request")}, status)
