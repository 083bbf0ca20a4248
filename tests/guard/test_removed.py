"""Rules before the rules: with each of them taken away, its attack comes through.

``test_rules.py`` does so for what a request must fulfil; here is how it is read, who sends it, how
often and how much.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from folkmoot.identity import tokens
from pipelines.guard import asgi, framing, limits, routes
from pipelines.guard.asgi import Closed, Guard
from pipelines.guard.limits import Limits

from .conftest import TI_A, Door

RUN = "/exchange/v1/demo/runs/run-1"
FETCH = "/edge_worker/v1/jobs/fetch/site-a"
JOB = "/edge_worker/v1/jobs/state/federated_linear/round-001.train-site-a-001/run-1/1/-1/success"
BODY = json.dumps({"queues": ["site-site-a"]}).encode()
Patch = pytest.MonkeyPatch


def ask(
    door: Door,
    guard: Any,
    method: str,
    path: str,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes = b"",
    token: str | None = None,
    query: bytes = b"",
) -> int:
    """A request byte by byte; returns the status."""
    signed = token or door.token("site-a", method, path)
    named = [] if headers is None else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"authorization", f"Bearer {signed}".encode()), *named],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(guard(scope, receive, send))
    return int(sent[0]["status"])


def spelling(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """Path traversal, by parts that other software would resolve."""
    path = f"{RUN}/../../../coordinator/signing.key"
    part = routes.ROUTES[[r.name for r in routes.ROUTES].index("read")]

    def remove() -> None:
        patch.setattr(asgi, "path_of", lambda raw: raw.decode())
        patch.setattr(asgi, "find", lambda *_: (part, {"key": "demo/runs/run-1/run.json"}))

    return lambda: ask(door, door.guard(), "GET", path), remove


def queries(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A parameter that Airflow knows and workers do not use."""
    xcom = "/execution/xcoms/federated_linear/run-1/open/return_value"
    query = b"include_prior_dates=true"
    token = f"signed:{TI_A}"
    remove = lambda: patch.setattr(asgi, "query_of", lambda raw, allowed: {})  # noqa: E731
    return lambda: ask(door, door.guard(), "GET", xcom, token=token, query=query), remove


def smuggled(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A body whose end two programs see at two places."""
    headers = [(b"content-length", str(len(BODY)).encode()), (b"transfer-encoding", b"chunked")]
    remove = lambda: patch.setattr(framing, "_CLOSED", frozenset())  # noqa: E731
    return lambda: ask(door, door.guard(), "POST", FETCH, headers=headers, body=BODY), remove


def bomb(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """An upload that is small until it is unpacked."""
    packed = gzip.compress(bytes(10**6))
    size = str(len(packed)).encode()
    headers = [(b"content-encoding", b"gzip"), (b"content-length", size)]
    headers += [(b"upload-offset", b"0"), (b"upload-length", size)]
    path = f"{RUN}/round-001/update-site-a"
    remove = lambda: patch.setattr(framing, "_CLOSED", frozenset())  # noqa: E731
    return lambda: ask(door, door.guard(), "PATCH", path, headers=headers, body=packed), remove


def doubled(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """Two lengths, of which the next reader may take the other."""
    size = str(len(BODY)).encode()
    headers = [(b"content-length", size), (b"content-length", size)]

    def remove() -> None:
        patch.setattr(asgi, "headers_of", lambda raw: {k.decode(): v.decode() for k, v in raw})

    return lambda: ask(door, door.guard(), "POST", FETCH, headers=headers, body=BODY), remove


def injected(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A line for the log, in a header that is passed on."""
    headers = [(b"user-agent", b"x\x1b[2J\x07forged")]
    remove = lambda: patch.setattr(framing, "_VALUE", re.compile(rb"[\x00-\x7e]*"))  # noqa: E731
    return lambda: ask(door, door.guard(), "GET", f"{RUN}/run.json", headers=headers), remove


def oversized(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """An artefact larger than the coordinator takes."""
    path = f"{RUN}/round-001/update-site-a"
    size = [(b"content-length", b"3"), (b"upload-offset", b"0"), (b"upload-length", b"9" * 13)]
    bound = [Limits.upload]
    return (
        lambda: ask(
            door, door.guard(limits=Limits(upload=bound[0])), "PATCH", path, headers=size, body=b"a"
        ),
        lambda: bound.__setitem__(0, 10**15),
    )


def swollen(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A body of a small request that fills the memory."""
    body = BODY + b" " * 10**5
    found = [r for r in routes.ROUTES if r.name == "fetch"]
    wide = [dataclasses.replace(found[0], body=10**6)]
    which = [found]

    def remove() -> None:
        which[0] = wide

    return lambda: ask(door, door.guard(routes=which[0]), "POST", FETCH, body=body), remove


def twice(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A name that comes twice: checked is one value, and meant the other."""
    body = b'{"queues": ["site-site-b"], "queues": ["site-site-a"]}'
    remove = lambda: patch.setattr(asgi, "_once_each", dict)  # noqa: E731
    return lambda: ask(door, door.guard(), "POST", FETCH, body=body), remove


def replayed(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A request that was heard on the way, once more."""
    guard, token = door.guard(), door.token("site-a", "GET", f"{RUN}/run.json")

    def attack() -> int:
        ask(door, guard, "GET", f"{RUN}/run.json", token=token)
        door.through.clear()
        return ask(door, guard, "GET", f"{RUN}/run.json", token=token)

    return attack, lambda: patch.setattr(limits.Once, "first", lambda *_: True)


def elsewhere(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A token for one request, used for another."""
    token = door.token("site-a", "GET", f"{RUN}/run.json")

    def remove() -> None:
        def bound(text: str, keys: Any) -> Any:
            return dataclasses.replace(tokens.read_token(text, keys), method="PATCH", path=JOB)

        patch.setattr(asgi, "read_token", bound)

    return lambda: ask(door, door.guard(), "PATCH", JOB, token=token, body=b"{}"), remove


def hasty(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """One site that leaves no time for others."""
    guard = door.guard(limits=Limits(rate=0.001, burst=2))

    def attack() -> int:
        codes = [ask(door, guard, "GET", f"{RUN}/run.json") for _ in range(2)]
        assert codes == [200, 200] or codes == [429, 429]
        door.through.clear()
        return ask(door, guard, "GET", f"{RUN}/run.json")

    return attack, lambda: patch.setattr(limits.Rates, "take", lambda *_: True)


def public(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """The public API, with a token of the site or one that it forged."""
    open_to = [None]

    def remove() -> None:
        open_to[0] = [routes.Route("read", ("GET",), "/api/v2/{name}", "guest")]  # type: ignore[call-overload]

    return lambda: ask(
        door, door.guard(routes=open_to[0]), "GET", "/api/v2/variables", token="forged"
    ), remove


def strange(door: Door, patch: Patch) -> tuple[Callable[[], int], Callable[[], None]]:
    """A task's token that the coordinator signed for a task of its own, which no site may move."""
    identity = "0198c2aa-0000-7000-8000-00000000000c"
    path = f"/execution/task-instances/{identity}/state"
    body = b'{"state": "success"}'

    def remove() -> None:
        async def believed(self: Guard, request: Any) -> None:
            request.site, request.member = "site-a", self.sites.members["site-a"]
            request.subject = identity

        patch.setattr(Guard, "_task", believed)

    return lambda: ask(
        door, door.guard(), "PATCH", path, token=f"signed:{identity}", body=body
    ), remove


ALL = [
    *(spelling, queries, smuggled, bomb, doubled, injected, oversized, swollen, twice, replayed),
    *(elsewhere, hasty, public, strange),
]


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.__name__)
def test_without_its_rule_an_attack_comes_through(
    door: Door, monkeypatch: pytest.MonkeyPatch, attack: Any
) -> None:
    run, remove = attack(door, monkeypatch)
    assert run() in {400, 401, 403, 413, 429}
    assert not door.through
    remove()
    assert run() == 200
    assert len(door.through) == 1


def test_other_api_servers_are_closed_to_sites(door: Door) -> None:
    """The UI's and the tasks' own: what is meant for sites ends there, however it is spelt."""
    for path in (FETCH, f"{RUN}/run.json", "//exchange/hello", "/EDGE_WORKER/v1/health"):
        assert ask(door, Closed(door.app), "GET", path) == 403
    assert not door.through
    assert ask(door, Closed(door.app), "GET", "/api/v2/version") == 200
