"""The guard itself: a middleware before Airflow's API server.

A request passes when it has one meaning (``framing``), is one that workers make (``routes``), comes
from a member with a token for this very request, is within the limits, and fulfils the rules of its
route (``checks``).  Everything else is answered by the guard; Airflow does not see it.

The site's token goes no further.  For the edge API the guard puts one of its own in its place
(``stamp``), the only one that Airflow is set up to take there: without the guard that API takes none.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import folkmoot
from folkmoot.identity.tokens import LEEWAY, Refused, read_token
from pipelines.guard.checks import CHECKS, Check
from pipelines.guard.framing import headers_of, path_of, query_of
from pipelines.guard.limits import Limits, Once, Rates
from pipelines.guard.request import Jobs, Refusal, Request
from pipelines.guard.routes import EDGE, ROUTES, Route, find
from pipelines.guard.sites import Sites

__all__ = ["SITE", "Closed", "Guard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
#: Where the exchange app finds whose request it is; nothing that comes over the wire sets it.
SITE = "folkmoot.site"


class Guard:
    """Let members do what workers do, and nobody anything else.

    Parameters
    ----------
    app : ASGI application
        Airflow's.
    sites : Sites
        The members.
    jobs : Jobs
        The coordinator's database.
    stamp : callable
        Makes the guard's own token for the edge API, for a site.
    limits : Limits
        Bounds on rates and sizes.
    checks, routes : sequences
        The rules; all by default.
    observe : callable, optional
        Told of every answer: site or None, route or None, reason (``ok``), seconds in the guard.
    """

    def __init__(
        self,
        app: App,
        *,
        sites: Sites,
        jobs: Jobs,
        stamp: Callable[[str], str],
        limits: Limits | None = None,
        checks: Sequence[Check] | None = None,
        routes: Sequence[Route] | None = None,
        observe: Callable[[str | None, str | None, str, float], None] | None = None,
    ) -> None:
        self.app, self.sites, self.jobs, self.stamp = app, sites, jobs, stamp
        self.limits = limits or Limits()
        self._rates = Rates(self.limits.rate, self.limits.burst)
        self._once = Once()
        self._routes = None if routes is None else tuple(routes)
        self._checks: dict[str, list[Check]] = {
            route.name: [
                c for c in (CHECKS if checks is None else checks) if route.name in c.routes
            ]
            for route in routes or ROUTES
        }
        self._observe = observe or (lambda *_: None)
        self._inside = asyncio.Semaphore(self.limits.inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        if scope["type"] != "http":
            await _close(send)
            return
        request: Request | None = None
        route: Route | None = None
        try:
            route, request, receive = await self._admit(scope, receive)
        except _No as no:
            self._observe(no.site, no.route, no.refusal.reason, time.perf_counter() - began)
            await _answer(send, no.refusal)
            return
        site = None if request is None else request.site
        if request is not None and route.name == "fetch":
            await self.jobs.put_back(request.queue)
        self._observe(site, route.name, "ok", time.perf_counter() - began)
        handed = self._handed_on(scope, route, request)
        if route.stream or route.name == "read":  # of any length, and not with the database
            await self.app(handed, receive, send)
            return
        async with self._inside:
            await self.app(handed, receive, send)

    async def _admit(self, scope: Scope, receive: Receive) -> tuple[Route, Request | None, Receive]:
        raw = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
        path = path_of(raw.split(b"?", 1)[0])
        if path is None or scope["path"] != path:
            raise _No(Refusal(400, "path"))
        found = find(scope["method"], path, self._routes)
        if found is None:
            raise _No(Refusal(403, "closed"))
        route, params = found
        query = query_of(scope.get("query_string", b""), route.query)
        if query is None:
            raise _No(Refusal(400, "query"), route=route.name)
        headers = headers_of(scope["headers"])
        if isinstance(headers, Refusal):
            raise _No(headers, route=route.name)
        scope[_HEADERS] = headers
        if route.who == "guest":
            if not self._rates.take(_GUESTS):
                raise _No(Refusal(429, "rate"), route=route.name)
            _, receive = await self._body(route, headers, receive)
            return route, None, receive
        request = Request(
            scope["method"], path, query, headers, route.name, params, "", _NOBODY, self.jobs
        )
        if route.who == "site":
            self._site(request)
        else:
            await self._task(request)
        if not self._rates.take(request.site):
            raise _No(Refusal(429, "rate"), request)
        request.body, receive = await self._body(route, headers, receive, request)
        for check in self._checks[route.name]:
            refusal = await check.rule(request)
            if refusal is not None:
                raise _No(refusal, request)
        return route, request, receive

    def _site(self, request: Request) -> None:
        """A token of the site, for this request and for the first time."""
        text = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            visitor = read_token(text, self.sites.keys)
        except Refused as refused:
            no = _No(Refusal(401, refused.reason), request)
            no.site = refused.site
            raise no from None
        request.site = visitor.site
        if (visitor.method, visitor.path) != (request.method, request.path):
            raise _No(Refusal(401, "bound"), request)
        if not self._once.first(visitor.site, visitor.number, visitor.expires + LEEWAY):
            raise _No(Refusal(401, "replay"), request)
        request.member = self.sites.members[visitor.site]
        request.first = lambda number: self._once.first(visitor.site, number, time.time() + _DAY)

    async def _task(self, request: Request) -> None:
        """A token that the coordinator signed for a task in the queue of a member."""
        text = request.headers.get("authorization", "").removeprefix("Bearer ")
        subject = await self.jobs.subject(text)
        if subject is None:
            raise _No(Refusal(401, "task-token"), request)
        task = await self.jobs.task(subject)
        site = "" if task is None else task.queue.removeprefix("site-")
        member = self.sites.members.get(site)
        if task is None or task.queue != f"site-{site}" or member is None:
            raise _No(Refusal(403, "task-queue"), request)
        request.site, request.member, request.task, request.subject = site, member, task, subject

    async def _body(
        self,
        route: Route,
        headers: dict[str, str],
        receive: Receive,
        request: Request | None = None,
    ) -> tuple[Any, Receive]:
        """Read and decode a JSON body; returns it and a channel that gives it once more."""
        length = int(headers.get("content-length") or 0)
        if route.stream:
            total = headers.get("upload-length", "0")
            if length > self.limits.upload or (
                total.isdigit() and int(total[:16]) > self.limits.upload
            ):
                raise _No(Refusal(413, "size"), request, route.name)
            return None, receive
        if length > route.body:
            raise _No(Refusal(413, "size"), request, route.name)
        data = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _No(Refusal(400, "body"), request, route.name)
            data += message.get("body", b"")
            if len(data) > route.body:
                raise _No(Refusal(413, "size"), request, route.name)
            if not message.get("more_body"):
                break
        value = None
        if data:
            try:
                value = json.loads(data, parse_constant=_constant, object_pairs_hook=_once_each)
            except (ValueError, RecursionError):
                raise _No(Refusal(400, "body"), request, route.name) from None
        return value, _again(data, receive)

    def _handed_on(self, scope: Scope, route: Route, request: Request | None) -> Scope:
        """The request as Airflow gets it: the headers that count, and the guard's token."""
        headers = dict(scope[_HEADERS])
        if route.who != "task":
            headers.pop("authorization", None)
        if request is not None and request.path.startswith(f"{EDGE}/"):
            headers["authorization"] = self.stamp(request.site)
        raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        handed = {**scope, "headers": raw, SITE: None if request is None else request.site}
        handed.pop(_HEADERS)
        return handed


class Closed:
    """For an API server that sites are not to reach: refuse all that is meant for them.

    Parameters
    ----------
    app : ASGI application
        Airflow's.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] in {"http", "websocket"}:
            path = scope["path"].replace("//", "/").lower()
            if path.startswith(("/edge_worker/v1", "/exchange")):
                await (
                    _answer(send, Refusal(403, "closed"))
                    if scope["type"] == "http"
                    else _close(send)
                )
                return
        await self.app(scope, receive, send)


_HEADERS = "folkmoot.headers"
_DAY = 86_400.0
_NOBODY: Any = None
#: No site has this name: all guests together are one.
_GUESTS = ""


class _No(Exception):
    def __init__(
        self, refusal: Refusal, request: Request | None = None, route: str | None = None
    ) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.site = request.site or None if request else None
        self.route = request.route if request else route


def _constant(name: str) -> None:
    raise ValueError(name)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that comes twice could mean another value to whoever reads it next."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _again(data: bytes, receive: Receive) -> Receive:
    waiting = [data]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


async def _answer(send: Send, refusal: Refusal) -> None:
    """A reason that a doctor understands, and nothing that a stranger learns from."""
    body = b"null" if refusal.quiet else _text(refusal)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.status == 429:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _text(refusal: Refusal) -> bytes:
    told = {"detail": "Refused by the guard.", "reason": refusal.reason, "time": int(time.time())}
    if refusal.reason == "version":  # its signature was checked: it is a member
        told["folkmoot"] = folkmoot.__version__
    return json.dumps(told).encode()


async def _close(send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})
