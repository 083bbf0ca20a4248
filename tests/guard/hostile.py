"""A real API server of a coordinator, and a site that asks it for more than workers get."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import ssl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm

from folkmoot.exchange import ExchangeStore
from folkmoot.identity import new_key, public_text
from folkmoot.identity.tokens import site_token
from folkmoot.params import parse_params
from pipelines.guard.sites import Member
from pipelines.hosts.airflow_coordinator import Coordinator, ServerSettings
from pipelines.hosts.airflow_launch import SITES
from pipelines.hosts.airflow_services import free_port

WORKER = {
    "state": "starting",
    "jobs_active": 0,
    "queues": ["site-site-a"],
    "sysinfo": {
        "airflow_version": "3.3.2",
        "edge_provider_version": "5.1.0",
        "status": 20,
        "concurrency": 1,
        "free_concurrency": 1,
    },
}
FETCH = {"queues": ["site-site-a"], "free_concurrency": 1, "supports_task_instance_uuid": True}
DAG = "federated_linear"

RUN = "manual__2026-11-23T01:22:40.923794+00:00"
TASKS = {
    name: str(uuid.UUID(int=number))
    for number, name in enumerate(
        ("open", "round-001.train-site-a-001", "round-001.train-site-b-001"), start=1 << 96
    )
}
MINE, THEIRS = list(TASKS)[1:]
STORE = "demo/runs/run-1"


@dataclass
class Hostile:
    """Site a turned hostile, and site b that it is after."""

    airflow: Coordinator
    store: ExchangeStore
    keys: dict[str, Ed25519PrivateKey]
    client: httpx.Client

    def ask(
        self,
        method: str,
        path: str,
        *,
        task: str | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """With its own token for this request, or one of a task, or a given one."""
        if task is not None:
            token = self.task_token(task)
        if token is None:
            token = site_token("site-a", self.keys["site-a"], method, path.partition("?")[0])
        sent = {"authorization": f"Bearer {token}", **(headers or {})}
        return self.client.request(method, path, headers=sent, **arguments)

    def task_token(self, task: str, key: Any = None) -> str:
        """What the coordinator signs for a task that it gives to a site."""
        own = load_pem_private_key((self.airflow.folder / "tasks.pem").read_bytes(), None)
        jwk = OKPAlgorithm.to_jwk(own.public_key(), as_dict=True)  # type: ignore[arg-type]
        text = json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()
        kid = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
        now = int(time.time())
        claims = {
            "sub": TASKS[task],
            "scope": "execution",
            "aud": "urn:airflow.apache.org:task",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        }
        return jwt.encode(claims, key or own, algorithm="EdDSA", headers={"kid": kid})  # type: ignore[arg-type]

    def rows(self, query: str) -> list[Any]:
        """What Airflow's database holds."""
        with sqlite3.connect(self.airflow.home / "airflow.db", timeout=30) as database:
            return database.execute(query).fetchall()

    def insert(self, table: str, **values: Any) -> None:
        """A row as the scheduler would write it."""
        fill = {"INTEGER": 0, "JSON": "{}", "BOOLEAN": 0, "FLOAT": 0.0}
        with sqlite3.connect(self.airflow.home / "airflow.db", timeout=30) as database:
            for _, name, kind, needed, default, _ in database.execute(
                f"pragma table_info({table})"
            ):
                if needed and default is None and name not in values:
                    values[name] = fill.get(kind, "2026-01-01 00:00:00.000000")
            marks = ", ".join("?" * len(values))
            names = ", ".join(f'"{name}"' for name in values)
            database.execute(
                f"insert into {table} ({names}) values ({marks})", list(values.values())
            )


@contextmanager
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """A coordinator's API server for sites, alone: it has a database, and nobody schedules."""
    workspace = tmp_path_factory.mktemp("coordinator")
    params = parse_params({"federation": {"workspace": str(workspace)}})
    settings = ServerSettings(url=f"https://127.0.0.1:{free_port(0)}")
    keys = {
        name: new_key(tmp_path_factory.mktemp(name) / "signing.key")
        for name in ("site-a", "site-b")
    }
    with Coordinator(params, workspace, settings, services=[SITES]) as airflow:
        for name, key in keys.items():
            airflow.sites.add(name, Member(public_text(key)))
        store = ExchangeStore(workspace / "exchange")
        opened = {"params": {"federation": {"sites": ["site-a", "site-b"]}}}
        store.put(f"{STORE}/run.json", json.dumps(opened).encode())
        context = ssl.create_default_context(cadata=airflow.authority)
        airflow.wait_guarded()
        with httpx.Client(base_url=settings.url, verify=context, timeout=60) as client:
            made = Hostile(airflow, store, keys, client)
            for name, identity in TASKS.items():
                site = name.split("-")[3] if "train" in name else None
                made.insert(
                    "task_instance",
                    id=identity.replace("-", ""),
                    dag_id=DAG,
                    run_id=RUN,
                    task_id=name,
                    queue="default" if site is None else f"site-site-{site}",
                    state="running",
                    hostname="here",
                    pid=7,
                    try_number=1,
                    map_index=-1,
                )
            for name, worker in ((MINE, "site-a"), (THEIRS, "site-b"), ("waiting", None)):
                made.insert(
                    "edge_job",
                    dag_id=DAG,
                    task_id=name,
                    run_id=RUN,
                    map_index=-1,
                    try_number=1,
                    task_instance_id=TASKS.get(name, ""),
                    state="queued" if worker is None else "running",
                    queue="site-site-b" if worker is None else f"site-{worker}",
                    concurrency_slots=1,
                    command="{}",
                    edge_worker=worker,
                )
            yield made
