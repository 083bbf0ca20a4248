# ruff: noqa: E501
"""A hostile site at a real Airflow: with all that a site holds, it gets what workers get."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm

import folkmoot
from folkmoot.errors import ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity import new_key, public_text
from folkmoot.identity.tokens import site_token
from folkmoot.identity.visit import Visit
from folkmoot.params import parse_params
from pipelines.guard.sites import Member
from pipelines.hosts.airflow_coordinator import Coordinator, ServerSettings
from pipelines.hosts.airflow_launch import SITES
from pipelines.hosts.airflow_services import free_port
from pipelines.hosts.airflow_worker import prepare
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file
from site_tasks.maintenance import maintain, maintenance

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
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


def test_a_worker_does_its_work_and_no_more(hostile: Hostile) -> None:
    """Registration, heart-beat, fetch: through guard and Airflow; other names and queues are not."""
    answer = hostile.ask("POST", "/edge_worker/v1/worker/site-a", json=WORKER)
    assert answer.status_code == 200, answer.text
    beat = hostile.ask("PATCH", "/edge_worker/v1/worker/site-a", json={**WORKER, "state": "idle"})
    assert beat.json()["queues"] == ["site-site-a"]
    assert hostile.ask("POST", "/edge_worker/v1/jobs/fetch/site-a", json=FETCH).json() is None
    for path, body in (
        ("/edge_worker/v1/jobs/fetch/site-b", FETCH),
        ("/edge_worker/v1/jobs/fetch/site-a", {**FETCH, "queues": ["site-site-b"]}),
        ("/edge_worker/v1/jobs/fetch/site-a", {**FETCH, "queues": []}),
        ("/edge_worker/v1/worker/site-b", WORKER),
    ):
        assert hostile.ask("POST", path, json=body).status_code == 403
    assert {name for (name,) in hostile.rows("select worker_name from edge_worker")} == {"site-a"}


def test_a_worker_killed_in_maintenance_comes_back_in_it(hostile: Hostile, tmp_path: Path) -> None:
    home = SiteHome.create(
        tmp_path / "home", "site-c", remote=str(tmp_path / "remote"), federations=["demo"]
    )
    hostile.airflow.sites.add("site-c", Member(public_text(home.key())))
    (home.private / "authority.pem").write_text(hostile.airflow.authority or "")
    Visit("site-c", hostile.airflow.settings.url, home.private, "authority.pem").save(
        coordinator_file(home)
    )
    (home.private / "federation.json").write_text('{"federation": "demo", "sites": ["site-c"]}')
    environment = {**prepare(home), "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": "1"}
    command = [sys.executable, "-m", "pipelines.hosts.airflow_worker"]
    workers: list[subprocess.Popen[bytes]] = []

    def seen(*, request: str = "") -> tuple[str, dict[str, Any]]:
        with sqlite3.connect(hostile.airflow.home / "airflow.db", timeout=30) as database:
            if request:
                database.execute(
                    "update edge_worker set state = ?, maintenance_comment = 'a new disk' "
                    "where worker_name = 'site-c'",
                    (request,),
                )
            rows = database.execute(
                "select state, sysinfo from edge_worker where worker_name = 'site-c'"
            ).fetchall()
        return (rows[0][0], json.loads(rows[0][1])) if rows else ("", {})

    def until(state: str, since: Any = None) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while (found := seen())[0] != state or found[1].get("worker_start_time") == since:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found[1]

    def start() -> None:
        with (tmp_path / "log").open("ab") as log:
            workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    try:
        start()
        assert until("idle")["folkmoot_version"] == folkmoot.__version__
        seen(request="maintenance request")  # as Airflow's page does at the coordinator
        first = until("maintenance mode")["worker_start_time"]
        assert maintenance(home) == "a new disk"
        workers[0].kill()
        workers[0].wait()
        start()
        until("maintenance mode", first)
        maintain(home, False)  # as the steward does at the site
        until("idle", first)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_a_forged_administrator_and_the_public_api(hostile: Hostile) -> None:
    now = int(time.time())
    admin = {
        "sub": "admin",
        "role": "ADMIN",
        "aud": "apache-airflow",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "x",
    }
    forged = [
        jwt.encode(admin, hostile.keys["site-a"], algorithm="EdDSA", headers={"kid": "site-a"}),
        jwt.encode(admin, "", algorithm="none", headers={"kid": "not-used"}),
        hostile.task_token(MINE),
    ]
    variables = "/api/v2/variables"
    for token in forged:
        for method, path, body in (
            ("GET", variables, None),
            ("POST", variables, {"key": "stolen", "value": "1"}),
            ("POST", f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None}),
            ("GET", "/edge_worker/ui/worker", None),
            ("POST", "/auth/token", {"username": "admin", "password": "admin"}),
        ):
            answer = hostile.ask(method, path, token=token, json=body)
            assert answer.json()["reason"] == "closed", path
    assert hostile.rows("select * from variable") == []


def test_what_a_tasks_token_opens_without_the_guard_is_closed(hostile: Hostile) -> None:
    """All that Airflow itself lets any task do: variables, other runs, other tasks' results."""
    theirs, mine = TASKS[THEIRS], TASKS[MINE]
    xcom = f"/execution/xcoms/{DAG}/{RUN}"
    done = {"state": "success", "end_date": "2026-01-01T00:00:00Z"}
    attacks = [
        ("PUT", "/execution/variables/stolen", {"val": "1"}),
        ("GET", "/execution/variables/stolen", None),
        ("POST", f"/execution/dag-runs/{DAG}/forged", {}),
        ("PATCH", f"/execution/task-instances/{theirs}/state", done),
        ("POST", f"{xcom}/{THEIRS}/return_value", []),
        ("POST", f"{xcom}/{MINE}/return_value", {"rows": [["Anna", 1]]}),
        ("POST", f"{xcom}/{MINE}/note", []),
        ("GET", f"{xcom}/{MINE}/return_value?include_prior_dates=true", None),
        ("GET", f"/execution/xcoms/{DAG}/other-run/open/return_value", None),
        ("GET", "/execution/connections/mlflow_default", None),
        ("PATCH", f"/execution/task-instances/{mine}/skip-downstream", {"tasks": ["conclude"]}),
        (
            "PATCH",
            f"/execution/task-instances/{mine}/state",
            {**done, "task_outlets": [{"name": "demo/site-b"}]},
        ),
        ("PUT", f"/execution/task-instances/{mine}/rtif", {"env": "Anna"}),
    ]
    for method, path, body in attacks:
        answer = hostile.ask(method, path, task=MINE, json=body)
        assert answer.status_code in {400, 403}, path
        assert answer.json()["detail"] == "Refused by the guard."
    for table in ("variable", "xcom", "dag_run", "rendered_task_instance_fields"):
        assert hostile.rows(f"select * from {table}") == []
    states = hostile.rows("select distinct state from task_instance")
    assert states == [("running",)]
    forged = hostile.task_token(MINE, key=hostile.keys["site-a"])
    beat = ("PUT", f"/execution/task-instances/{mine}/heartbeat")
    body = {"hostname": "here", "pid": 7}
    assert hostile.ask(*beat, token=forged, json=body).json()["reason"] == "task-token"
    other = hostile.ask(*beat, task="open", json=body)
    assert other.json()["reason"] == "task-queue"
    # And what a task does, comes through to Airflow.
    assert hostile.ask(*beat, task=MINE, json=body).status_code == 204
    read = hostile.ask("GET", f"{xcom}/{MINE}/return_value", task=MINE)
    assert "XCom" in read.text


def test_jobs_of_another_site(hostile: Hostile) -> None:
    """Its queue, its jobs' states, paths and logs."""
    job = f"{DAG}/{THEIRS}/{RUN}/1/-1"
    for method, path, body in (
        ("PATCH", f"/edge_worker/v1/jobs/state/{job}/success", {"task_instance_id": TASKS[THEIRS]}),
        ("PATCH", f"/edge_worker/v1/jobs/state/{job}/failed", {}),
        ("GET", f"/edge_worker/v1/logs/logfile_path/{job}", None),
        ("POST", f"/edge_worker/v1/logs/push/{job}", {"log_chunk_data": "forged"}),
    ):
        assert hostile.ask(method, path, json=body).json()["reason"] == "job-holder"
    jobs = hostile.rows("select task_id, state from edge_job order by task_id")
    assert dict(jobs) == {MINE: "running", THEIRS: "running", "waiting": "queued"}
    own = f"/edge_worker/v1/jobs/state/{DAG}/{MINE}/{RUN}/1/-1/success"
    answer = hostile.ask("PATCH", own, json={"task_instance_id": TASKS[MINE]})
    assert answer.status_code == 200, answer.text
    assert dict(hostile.rows("select task_id, state from edge_job"))[MINE] == "success"


def test_another_sites_update(hostile: Hostile, tmp_path: Path) -> None:
    """Read, write and replay, through the same store as the site's own tasks use."""
    (tmp_path / "signing.key").write_bytes(hostile.keys["site-a"].private_bytes_raw())
    (tmp_path / "ca.pem").write_text(hostile.airflow.authority or "")
    url = hostile.airflow.settings.url
    site = ExchangeStore(tmp_path)
    site._backend = HttpsBackend(f"{url}/exchange/v1", Visit("site-a", url, tmp_path, "ca.pem"))
    mine, theirs = (f"{STORE}/round-001/update-{name}" for name in ("site-a", "site-b"))
    model = f"{STORE}/round-000/model"
    hostile.store.put(theirs, b"of site b")
    hostile.store.put(model, b"model" * 100_000)
    large = bytes(range(256)) * 5000
    site.put(mine, large)
    assert hostile.store.get(mine) == large == site.get(mine)
    assert site.get(model) == hostile.store.get(model)
    for attempt in (
        lambda: site.get(theirs),
        lambda: site.put(theirs, b"forged"),
        lambda: site.put(theirs.replace("001", "099"), large),
        lambda: site.put(mine, b"changed afterwards"),
        lambda: site.put(model, b"forged"),
        lambda: site.get("demo/runs/other/run.json"),
    ):
        with pytest.raises(ProtocolError):
            attempt()
    assert hostile.store.get(theirs) == b"of site b"


def _raw(hostile: Hostile, request: bytes) -> bytes:
    """Bytes as no client would send them; returns all answers."""
    settings = hostile.airflow.settings
    context = ssl.create_default_context(cadata=hostile.airflow.authority)
    with (
        socket.create_connection((settings.host, settings.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as line,
    ):
        line.sendall(request)
        line.settimeout(3)
        found = b""
        try:
            while part := line.recv(65536):
                found += part
        except TimeoutError:
            pass
        return found


def test_paths_headers_and_logs_cannot_be_smuggled(hostile: Hostile) -> None:
    key = hostile.keys["site-a"]
    path = "/edge_worker/v1/jobs/fetch/site-a"
    body = json.dumps(FETCH).encode()

    def head(extra: str, method: str = "POST", target: str = path) -> bytes:
        token = site_token("site-a", key, method, target)
        return f"{method} {target} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{extra}\r\n".encode()

    inner = b"GET /api/v2/variables HTTP/1.1\r\nHost: c\r\n\r\n"
    for request in (
        head(f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n")
        + b"0\r\n\r\n"
        + inner,
        head("Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        head("Content-Length: 2\r\nContent-Length: 60\r\n") + b"{}" + inner,
        head("Content-Length : 2\r\n") + b"{}",
        head("X-A: b\r\n c: d\r\nContent-Length: 2\r\n") + b"{}",
        head("Content-Length: 2\r\n", target="/exchange/v1/demo/runs/../../../etc/passwd"),
        head("", "GET", "/exchange/v1/demo/runs/..%2f..%2fcoordinator/signing.key"),
        head("", "GET", "/exchange/v1/demo/runs/%2e%2e/%2e%2e/coordinator/signing.key"),
        head("", "GET", "/execution/variables/site-site-a.x%0aFORGED%20LINE"),
        head("", "GET", "https://elsewhere/api/v2/variables"),
    ):
        answer = _raw(hostile, request)
        statuses = [
            line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1")
        ]
        assert statuses, request
        assert set(statuses) <= {b"400", b"401", b"403"}, (request, answer)
    logs = hostile.airflow.logs / "sites-api-server.log"
    lines = logs.read_text(errors="replace").splitlines()
    assert not any(line.startswith("FORGED LINE") for line in lines)


def test_oversized_and_packed_bodies(hostile: Hostile) -> None:
    path = "/edge_worker/v1/worker/site-a"
    assert hostile.ask("POST", path, content=b" " * 200_000).status_code == 413
    bomb = gzip.compress(b" " * 50_000_000)
    packed = hostile.ask("POST", path, content=bomb, headers={"content-encoding": "gzip"})
    assert packed.status_code == 400
    key = "/exchange/v1/demo/runs/x/round-001/update-site-a"
    headers = {
        "upload-offset": "0",
        "upload-length": str(1 << 50),
        "repr-digest": "sha-256=:AAAA:",
    }
    assert hostile.ask("PATCH", key, content=b"x", headers=headers).status_code == 413


def test_log_text_is_dropped_and_a_shut_out_site_stays_out(hostile: Hostile) -> None:
    push = f"/edge_worker/v1/logs/push/{DAG}/{MINE}/{RUN}/1/-1"
    body = {"log_chunk_time": "2026-01-01T00:00:00Z", "log_chunk_data": "Anna Canary\n"}
    assert hostile.ask("POST", push, json=body).status_code == 200
    home = hostile.airflow.home
    assert not any(b"Anna Canary" in path.read_bytes() for path in home.rglob("*.log"))
    assert hostile.rows("select * from edge_logs") == []
    beat = ("PATCH", "/edge_worker/v1/worker/site-a")
    assert hostile.ask(*beat, json={**WORKER, "state": "idle"}).status_code == 200
    hostile.airflow.sites.remove("site-a")
    gone = hostile.ask(*beat, json={**WORKER, "state": "idle"})
    assert (gone.status_code, gone.json()["reason"]) == (401, "unknown-site")


def test_an_api_server_that_was_killed_comes_back_with_its_guard(hostile: Hostile) -> None:
    """By itself, and with nothing left of the one before; jobs and members are as they were."""
    airflow, hello = hostile.airflow, "/exchange/hello"
    launcher = psutil.Process(airflow._process.pid)  # type: ignore[union-attr]
    (server,) = launcher.children()
    server.kill()
    server.wait(10)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        token = site_token("site-b", hostile.keys["site-b"], "GET", hello)
        try:
            answer = hostile.ask("GET", hello, token=token)
            break
        except httpx.TransportError:
            time.sleep(0.2)
    assert answer.json()["site"] == "site-b"
    assert launcher.children() != [server]
    assert len(launcher.children()) == 1
    jobs = dict(hostile.rows("select task_id, state from edge_job"))
    assert jobs[THEIRS] == "running"
    assert hostile.ask("GET", "/api/v2/variables", token=token).json()["reason"] == "closed"
