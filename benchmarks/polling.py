"""200 sites that poll the coordinator's real API server: errors, latency, and the server's memory.

Airflow's own API server with the guard, its database and TLS; the load generator is one process on
loopback.  Each site keeps a connection, registers, asks for a job every ``--poll`` seconds after the
last answer and tells that it lives every ten, as its worker does.  At the end one site uploads 100 MB.

    python -m benchmarks.polling --sites 200 --seconds 120
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.report import row
from folkmoot.exchange import ExchangeStore
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from folkmoot.identity.visit import Visit
from folkmoot.params import parse_params
from pipelines.guard.sites import Member
from pipelines.hosts.airflow_coordinator import Coordinator, ServerSettings
from pipelines.hosts.airflow_launch import SITES
from pipelines.hosts.airflow_services import free_port

BEAT, MEGABYTES = 10.0, 100


class Load:
    """The sites.

    Parameters
    ----------
    url : str
        Of the coordinator.
    authority : str
        PEM of its certificate's authority.
    keys : dict of str to private key
        By site.
    poll : float
        Seconds between an answer and the next question.
    """

    def __init__(
        self, url: str, authority: str, keys: dict[str, Ed25519PrivateKey], poll: float
    ) -> None:
        self._url, self._keys, self._poll = url, keys, poll
        self._context = ssl.create_default_context(cadata=authority)
        self.seconds: list[float] = []
        self.answers: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """All of them, for a while."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._site(n, i, until) for i, n in enumerate(self._keys)))

    async def _site(self, name: str, number: int, until: float) -> None:
        await asyncio.sleep(self._poll * number / len(self._keys))
        async with httpx.AsyncClient(
            base_url=self._url, verify=self._context, timeout=60.0
        ) as client:
            await self._ask(client, "POST", f"/edge_worker/v1/worker/{name}", _worker(name))
            beat = time.monotonic()
            while time.monotonic() < until:
                body = {"queues": [f"site-{name}"], "free_concurrency": 1}
                await self._ask(client, "POST", f"/edge_worker/v1/jobs/fetch/{name}", body)
                if time.monotonic() - beat > BEAT:
                    beat = time.monotonic()
                    path = f"/edge_worker/v1/worker/{name}"
                    await self._ask(client, "PATCH", path, {**_worker(name), "state": "idle"})
                await asyncio.sleep(self._poll)

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> None:
        token = site_token(path.rsplit("/", 1)[1], self._keys[path.rsplit("/", 1)[1]], method, path)
        began = time.perf_counter()
        try:
            answer = await client.request(
                method, path, json=body, headers={"authorization": f"Bearer {token}"}
            )
            self.answers[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
        self.seconds.append(time.perf_counter() - began)


def _worker(name: str) -> dict[str, Any]:
    return {
        "state": "starting",
        "jobs_active": 0,
        "queues": [f"site-{name}"],
        "sysinfo": {
            "airflow_version": "3.3.2",
            "edge_provider_version": "5.1.0",
            "status": 20,
            "concurrency": 1,
            "free_concurrency": 1,
        },
    }


def server(port: int) -> psutil.Process:
    """The process that listens."""
    for process in psutil.Process().children(recursive=True):
        if any(
            c.status == "LISTEN" and c.laddr.port == port for c in process.net_connections("tcp")
        ):
            return process
    raise LookupError("nobody listens")


def upload(url: str, authority: str, key: Ed25519PrivateKey, folder: Path, run: str) -> float:
    """MB/s of one large update."""
    folder.mkdir()
    (folder / "signing.key").write_bytes(key.private_bytes_raw())
    (folder / "ca.pem").write_text(authority)
    site = ExchangeStore(folder)
    site._backend = HttpsBackend(f"{url}/exchange/v1", Visit("site-000", url, folder, "ca.pem"))
    speeds = []
    for number in range(1, 4):
        data = os.urandom(MEGABYTES << 20)
        began = time.perf_counter()
        site.put(f"{run}/round-{number:03d}/update-site-000", data)
        speeds.append(MEGABYTES / (time.perf_counter() - began))
    return statistics.median(speeds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--poll", type=float, default=1.0)
    options = parser.parse_args(arguments)
    keys = {f"site-{n:03d}": Ed25519PrivateKey.generate() for n in range(options.sites)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = parse_params({"federation": {"workspace": str(folder / "work")}})
        port = free_port(0)
        settings = ServerSettings(url=f"https://127.0.0.1:{port}", listen="127.0.0.1")
        airflow = Coordinator(params, folder / "work", settings, services=[SITES])
        with airflow:
            for site, key in keys.items():
                airflow.sites.add(site, Member(public_text(key)))
            run = "demo/runs/run-1"
            opened = {"params": {"federation": {"sites": ["site-000"]}}}
            store = ExchangeStore(folder / "work" / "exchange")
            store.put(f"{run}/run.json", json.dumps(opened).encode())
            airflow.wait_guarded()
            process = server(port)
            before = process.memory_info().rss
            load = Load(settings.url, airflow.authority or "", keys, options.poll)
            cpu, began, peak = process.cpu_times(), time.perf_counter(), before

            async def watched() -> None:
                nonlocal peak
                running = asyncio.create_task(load.run(options.seconds))
                while not running.done():
                    peak = max(peak, process.memory_info().rss)
                    await asyncio.sleep(1.0)
                await running

            asyncio.run(watched())
            spent, used = time.perf_counter() - began, process.cpu_times()
            after = process.memory_info().rss
            speed = upload(
                settings.url, airflow.authority or "", keys["site-000"], folder / "s", run
            )
            largest = process.memory_info().rss
    times = sorted(load.seconds)
    errors = sum(load.answers.values()) - load.answers["200"]
    share = (used.user + used.system - cpu.user - cpu.system) / spent
    row(
        f"{options.sites} sites polling Airflow's API server through the guard, {spent:.0f} s",
        f"{errors} errors of {len(times)} requests ({len(times) / spent:.0f}/s, {share:.0%} of a "
        f"core; median {times[len(times) // 2] * 1e3:.0f} ms, "
        f"p99 {times[int(len(times) * 0.99)] * 1e3:.0f} ms)",
        "0 errors",
        met=not errors,
    )
    if errors:
        print(dict(load.answers))
    row(
        "memory of that API server: started, under load (peak), after it, after 3 uploads of 100 MB",
        ", ".join(f"{value / 2**20:.0f}" for value in (before, peak, after, largest)) + " MiB",
        "stated",
        met=None,
    )
    row(
        f"upload of {MEGABYTES} MB through Airflow's API server",
        f"{speed:.0f} MB/s",
        "stated",
        met=None,
    )


if __name__ == "__main__":
    main()
