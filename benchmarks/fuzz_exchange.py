"""The exchange app's own OpenAPI description under a schema fuzzer, at a running server.

Three visitors: a stranger; a hostile site that signs each request; and a site at the app alone, with
the guard taken away, so that what the app itself checks is reached as well.  Each answer is held to
the description, to be no server error, and to tell nothing: no paths, no traces, no values that were
sent, no byte of another site.

    python -m benchmarks.fuzz_exchange --minutes 10
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import re
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount

from benchmarks.report import row
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from pipelines.guard.asgi import SITE, Guard
from pipelines.guard.exchange import exchange_app
from pipelines.guard.join import Invitations
from pipelines.guard.limits import Limits
from pipelines.guard.sites import Member, Sites

RUN = "demo/runs/run-1"
CANARY = f"Canary-{secrets.token_hex(8)}"
#: Keys of the hostile site, of another one, and of nobody; wrong ones come from the fuzzer.
KEYS = (
    *(f"{RUN}/run.json", f"{RUN}/round-001/model", f"{RUN}/round-001/update-site-a"),
    *(f"{RUN}/round-002/update-site-a", f"{RUN}/round-001/update-site-b", f"{RUN}/round-001"),
    *("demo/anchors/run-1/heads/round-001/train/site-a", "demo/runs/other/run.json"),
)
_PARTS = ("federation", "kind", "run", "stage", "name")
_PART = {"type": "string", "pattern": "^[a-z0-9][A-Za-z0-9._-]{0,40}$"}
VISITORS = ("stranger", "site", "unguarded")
#: What may be told: a word, or a sentence for who was invited.
_REASON = re.compile(r"[a-z][a-z.-]{1,40}|[A-Z][A-Za-z ,.']{5,200}")
_MARKS = (b"Traceback", b'File "', b"site-packages", b"pipelines/", b".py", b"sqlite", b"Errno")


@dataclass
class Found:
    """What a run of the fuzzer saw."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())


class _Signed(requests.auth.AuthBase):
    def __init__(self, site: str, key: Ed25519PrivateKey) -> None:
        self._site, self._key = site, key

    def __call__(self, request: Any) -> Any:
        path = urlsplit(request.url).path
        token = site_token(self._site, self._key, request.method, path)
        request.headers["authorization"] = f"Bearer {token}"
        return request


class _AsSite:
    """The app with the guard taken away."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope[SITE] = "site-a"
        await self._app(scope, receive, send)


@dataclass
class Bench:
    """A running exchange with two sites, an invitation and artefacts of both."""

    schema: dict[str, Any]
    urls: dict[str, str]
    key: Ed25519PrivateKey
    folder: Path

    @contextlib.contextmanager
    def sessions(self) -> Iterator[dict[str, requests.Session]]:
        """A connection for each visitor."""
        with contextlib.ExitStack() as stack:
            made = {name: stack.enter_context(requests.Session()) for name in VISITORS}
            for session in made.values():
                session.trust_env = False
            made["site"].auth = _Signed("site-a", self.key)
            yield made

    def fuzz(self, found: Found, *, number: int, examples: int) -> None:
        """Every operation of the description, with what it allows and what it does not."""
        schema = schemathesis.openapi.from_dict(self.schema)
        with self.sessions() as sessions:
            result: Any
            for result in schema.get_all_operations():
                for mode in GenerationMode:
                    self._operation(result.ok(), mode, sessions, found, number, examples)

    def _operation(
        self,
        operation: Any,
        mode: GenerationMode,
        sessions: dict[str, requests.Session],
        found: Found,
        number: int,
        examples: int,
    ) -> None:
        cases = operation.as_strategy(generation_mode=mode)

        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, key=st.one_of(st.none(), st.sampled_from(KEYS)), data=st.data())
        def one(case: Any, key: str | None, data: st.DataObject) -> None:
            if key is not None and len(case.path_parameters or {}) == key.count("/") + 1:
                case.path_parameters = dict(zip(_PARTS, key.split("/"), strict=False))
            if case.method == "PATCH" and data.draw(st.booleans()):
                self._sound(case, data)
            for visitor, session in sessions.items():
                answer = case.call(self.urls[visitor], session=session, timeout=30)
                found.statuses[visitor, answer.status_code] += 1
                told = self.faults(answer, case, guarded=visitor != "unguarded")
                found.faults.update(f"{visitor}: {fault}" for fault in told)

        with contextlib.suppress(Unsatisfiable):  # nothing to get wrong where there is no input
            one()

    def _sound(self, case: Any, data: st.DataObject) -> None:
        """An upload that could be one: sizes and digest that belong together, or nearly so."""
        body = data.draw(st.binary(max_size=2000))
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        near = data.draw(st.integers(-1, 1)) if data.draw(st.booleans()) else 0
        case.body, case.media_type = body, "application/octet-stream"
        case.headers = {
            "repr-digest": f"sha-256=:{digest}:",
            "upload-offset": str(max(0, near)),
            "upload-length": str(max(0, len(body) + near)),
        }

    def faults(self, answer: Any, case: Any, *, guarded: bool = True) -> list[str]:
        """What is wrong with an answer; a line each, without what was sent."""
        where = f"{case.method} {case.operation.path}: "
        body = answer.content
        told = [f"{where}status {answer.status_code}"] * (answer.status_code >= 500)
        # Whose keys a site may read is the guard's to say.
        marks = [*_MARKS, str(self.folder).encode(), *([CANARY.encode()] if guarded else [])]
        told += [f"{where}tells {mark.decode()}" for mark in marks if mark in body]
        known = case.operation.definition.raw["responses"]
        elsewhere = b'"unknown"' in body  # what was made of the path is no path of this operation
        if str(answer.status_code) not in known and not elsewhere:
            told.append(f"{where}status {answer.status_code} is not described")
        if answer.status_code >= 400 and case.method != "HEAD" and body:
            try:
                said = json.loads(body)
            except ValueError:
                return [*told, f"{where}{answer.status_code} is no JSON: {body[:40]!r}"]
            if set(said) - {"reason", "detail", "time"} or not _REASON.fullmatch(said["reason"]):
                told.append(f"{where}{answer.status_code} tells more than a reason")
        return told


def _parted(schema: dict[str, Any]) -> dict[str, Any]:
    """The description with keys of four and of five parts: a parameter of a path holds no slash."""
    paths = dict(schema["paths"])
    whole = paths.pop("/v1/{key}")
    for count in (4, 5):
        parts = [
            {"name": n, "in": "path", "required": True, "schema": _PART} for n in _PARTS[:count]
        ]
        paths["/v1/" + "/".join(f"{{{n}}}" for n in _PARTS[:count])] = {
            method: {
                **told,
                "operationId": f"{told['operationId']}_{count}",
                "parameters": [p for p in told["parameters"] if p["in"] != "path"] + parts,
            }
            for method, told in whole.items()
        }
    return {**schema, "paths": paths}


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Start both servers on loopback."""
    store = ExchangeStore(folder / "exchange")
    opened = {"params": {"federation": {"sites": ["site-a", "site-b"]}}}
    store.put(f"{RUN}/run.json", json.dumps(opened).encode())
    store.put(f"{RUN}/round-001/model", bytes(range(256)) * 300)
    store.put(f"{RUN}/round-001/update-site-b", CANARY.encode() * 50)
    store.put("demo/runs/other/run.json", b'{"params": {"federation": {"sites": ["site-b"]}}}')
    sites = Sites(folder / "sites.json")
    keys = {name: Ed25519PrivateKey.generate() for name in ("site-a", "site-b")}
    for name, key in keys.items():
        sites.add(name, Member(public_text(key)))
    invitations = Invitations(folder / "invitations.json", sites, {"federation": "demo"})
    invitations.invite("site-c", "https://c", None)
    app = exchange_app(store, folder / "exchange" / ".uploads", invitations, {"federation": "demo"})
    handlers: Any = {404: lambda request, error: JSONResponse({"reason": "unknown"}, 404)}
    mounted = Starlette(routes=[Mount("/exchange", app)], exception_handlers=handlers)
    guard = Guard(
        mounted,
        sites=sites,
        jobs=None,  # type: ignore[arg-type]
        stamp=lambda site: "x",
        limits=Limits(rate=1e9, burst=1e9),
    )
    with _served(guard) as guarded, _served(_AsSite(mounted)) as bare:
        urls = {
            "stranger": f"{guarded}/exchange",
            "site": f"{guarded}/exchange",
            "unguarded": f"{bare}/exchange",
        }
        yield Bench(_parted(app.openapi()), urls, keys["site-a"], folder)


@contextlib.contextmanager
def _served(app: Any) -> Iterator[str]:
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def main(minutes: float | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args([] if minutes is not None else None)
    length = 60.0 * (options.minutes if minutes is None else minutes)
    found, number = Found(), options.seed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as ready:
        while time.monotonic() - began < length:
            number += 1
            ready.fuzz(found, number=number, examples=25)
    spent = time.monotonic() - began
    for (visitor, status), times in sorted(found.statuses.items()):
        print(f"{visitor:10} {status} {times:8}")
    for fault, times in found.faults.most_common():
        print(f"FAULT {times:6} {fault}")
    row(
        f"exchange app under schemathesis, {spent / 60:.1f} minutes, three visitors",
        f"{found.requests} requests, {sum(found.faults.values())} faults",
        "no 5xx, no leak",
        met=not found.faults,
    )


if __name__ == "__main__":
    main()
