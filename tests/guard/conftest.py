"""A guard before an application that notes what reaches it, and two sites."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from pipelines.guard.asgi import Guard
from pipelines.guard.request import Job, Task
from pipelines.guard.sites import Member, Sites

from .hostile import Hostile, beside

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library
    from starlette.testclient import TestClient as TestClient

TI_A, TI_B = "0198c2aa-0000-7000-8000-00000000000a", "0198c2aa-0000-7000-8000-00000000000b"
#: Two sites' tasks of one run.
TASKS = {
    TI_A: Task("federated_linear", "run-1", "round-001.train-site-a-001", "site-site-a"),
    TI_B: Task("federated_linear", "run-1", "round-001.train-site-b-001", "site-site-b"),
    "0198c2aa-0000-7000-8000-00000000000c": Task("federated_linear", "run-1", "open", "default"),
}


class KnownJobs:
    """The coordinator's database, by hand."""

    async def task(self, identity: str) -> Task | None:
        return TASKS.get(identity)

    async def job(self, dag: str, task: str, run: str, attempt: int, index: int) -> Job | None:
        for site in ("site-a", "site-b"):
            if task == f"round-001.train-{site}-001" and run == "run-1":
                return Job(f"site-{site}", site, TI_A if site == "site-a" else TI_B)
        if task == "waiting":
            return Job("site-site-a", None)
        return None

    async def subject(self, token: str) -> str | None:
        return token.removeprefix("signed:") if token.startswith("signed:") else None

    async def put_back(self, queue: str) -> None:
        """Nothing was lost."""


@dataclass
class Door:
    """The guard, the sites' keys, and what came through."""

    sites: Sites
    keys: dict[str, Ed25519PrivateKey]
    through: list[dict[str, Any]] = field(default_factory=list)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.through.append({**scope, "headers": headers, "body": body})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"through"'})

    def guard(self, **arguments: Any) -> Guard:
        return Guard(
            self.app,
            sites=self.sites,
            jobs=KnownJobs(),
            stamp=lambda site: f"stamp-{site}",
            **arguments,
        )

    def token(self, site: str, method: str, path: str, **arguments: Any) -> str:
        return site_token(site, self.keys[site], method, path, **arguments)

    def send(
        self,
        guard: Guard,
        method: str,
        path: str,
        *,
        site: str | None = None,
        task: str | None = None,
        token: str | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """A request as a site's worker, as one of its tasks, or with a given token."""
        headers = httpx.Headers(arguments.pop("headers", None))
        if site is not None:
            token = self.token(site, method, path.partition("?")[0])
        if task is not None:
            token = f"signed:{task}"
        if token is not None:
            headers["authorization"] = f"Bearer {token}"

        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(guard)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://c", verify=False
            ) as client:
                return await client.request(method, path, headers=headers, **arguments)

        return asyncio.run(exchange())


@pytest.fixture
def door(tmp_path: Path) -> Door:
    sites = Sites(tmp_path / "sites.json")
    keys = {name: Ed25519PrivateKey.generate() for name in ("site-a", "site-b", "stranger")}
    for name in ("site-a", "site-b"):
        sites.add(name, Member(public_text(keys[name])))
    return Door(sites, keys)


# For the folder: a server's start costs seconds, and its modules leave it as they found it.
@pytest.fixture(scope="package")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """A hostile site at a coordinator's API server."""
    with beside(tmp_path_factory) as made:
        yield made
