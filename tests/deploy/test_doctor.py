"""What the operator of a coordinator is told: one line for each fault, with its remedy."""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import folkmoot
from folkmoot.errors import FolkmootError, ProtocolError
from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from folkmoot.params import parse_params
from folkmoot.told import told_line
from pipelines.guard.metrics import Metered, Metrics
from pipelines.guard.sites import Member
from pipelines.hosts.airflow_coordinator import Coordinator
from pipelines.hosts.airflow_services import free_port
from pipelines.hosts.server_settings import load_settings
from pipelines.serving_health import check_serving
from site_tasks import code
from tests.guard.conftest import Door, KnownJobs, door

__all__ = ["door"]  # a fixture
PARAMS = parse_params({"federation": {"sites": ["site-a", "site-b", "site-c"]}})
Doctor = Callable[[], dict[str, tuple[str, str]]]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    load_settings(tmp_path, {"url": f"https://localhost:{free_port(0)}"})
    return tmp_path


@pytest.fixture
def doctor(workspace: Path) -> Doctor:
    def ask() -> dict[str, tuple[str, str]]:
        found = list(check_serving(PARAMS, workspace))
        assert all(f.remedy for f in found if f.state in {"fault", "warning"})
        return {f.what: (f.state, f.detail) for f in found}

    return ask


def test_nothing_is_told_where_nobody_serves(tmp_path: Path) -> None:
    assert list(check_serving(PARAMS, tmp_path)) == []


def test_members_and_invitations(workspace: Path, doctor: Doctor) -> None:
    coordinator = Coordinator(PARAMS, workspace, load_settings(workspace))
    for site in ("site-a", "stranger"):
        coordinator.sites.add(site, Member(public_text(Ed25519PrivateKey.generate())))
    coordinator.invitations.invite("site-b", "https://c", None, hours=2.0)
    told = doctor()
    assert told["joined"] == ("ok", "site-a")
    assert told["site-b: joined"] == ("warning", "site-b is invited for 2 h more.")
    assert told["site-c: joined"] == ("warning", "site-c has not been invited.")
    assert "federation.sites does not name it" in told["stranger: joined"][1]
    path = coordinator.invitations.path
    entries = json.loads(path.read_text())
    entries["site-b"]["expires"] = time.time() - 60
    path.write_text(json.dumps(entries))
    assert "its token has expired" in doctor()["site-b: joined"][1]


def test_certificates(workspace: Path, doctor: Doctor) -> None:
    told = doctor()
    assert told["certificate"][0] == "ok"
    assert told["sites' API server"][0] == "fault"
    assert "Nothing answers" in told["sites' API server"][1]
    settings = load_settings(workspace)
    guard = workspace / "coordinator" / "guard"
    own = {"certificate": str(guard / "server.pem"), "key": str(guard / "server.key")}
    load_settings(workspace, {**own, "url": f"https://elsewhere.example:{settings.port}"})
    assert "sites ask for elsewhere.example" in doctor()["certificate"][1]
    load_settings(workspace, {"url": settings.url, "key": str(guard / "ca.key")})
    assert "is not the key of" in doctor()["certificate"][1]


def test_another_program_at_the_port_is_found(workspace: Path, doctor: Doctor) -> None:
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from pipelines.guard.certificates import ensure_certificate

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def serve(folder: Path, port: int) -> HTTPServer:
        _, certificate, key = ensure_certificate(folder, "localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = HTTPServer(("127.0.0.1", port), Open)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    for folder, says in (
        ("coordinator/guard", "API is open to sites"),
        ("x", "another certificate"),
    ):
        port = free_port(0)
        load_settings(workspace, {"url": f"https://localhost:{port}"})
        server = serve(workspace / folder, port)
        assert says in doctor()["sites' API server"][1]
        server.shutdown()


def test_what_the_guard_refused_is_told_by_site(
    workspace: Path, doctor: Doctor, door: Door
) -> None:
    folder = workspace / "coordinator" / "guard"
    folder.mkdir(exist_ok=True)
    metrics = Metrics(folder / "refusals.json")
    guard = Metered(
        door.app, metrics=metrics, sites=door.sites, jobs=KnownJobs(), stamp=lambda site: "s"
    )
    path, now = "/exchange/hello", time.time()
    for offset in (-3600.0, 3600.0):
        door.send(guard, "GET", path, token=door.token("site-a", "GET", path, now=now + offset))
    forged = site_token("site-b", door.keys["stranger"], "GET", path)
    door.send(guard, "GET", path, token=forged)
    door.send(guard, "GET", path, token=door.token("stranger", "GET", path))
    metrics.write()
    lines = [
        (f.what, f.detail) for f in check_serving(PARAMS, workspace) if f.what.endswith("refused")
    ]
    assert [what for what, _ in lines] == [
        "strangers: refused",
        "site-a: refused",
        "site-a: refused",
        "site-b?: refused",
    ]
    assert "has not joined" in lines[0][1]
    assert "clock is behind" in lines[1][1]
    assert "clock is ahead" in lines[2][1]
    assert "without its key" in lines[3][1]
    old = json.loads((folder / "refusals.json").read_text())
    for entry in old:
        entry["last"] -= 2 * 86400
    (folder / "refusals.json").write_text(json.dumps(old))
    assert not [what for what in doctor() if what.endswith("refused")]


def _version(later: int) -> str:
    """This version, or one that is so many minor versions later."""
    major, minor, *rest = folkmoot.__version__.split(".")
    return ".".join([major, str(int(minor) + later), *rest])


def test_failed_tasks_of_a_day_are_told_by_site_and_code(workspace: Path, doctor: Doctor) -> None:
    logs = Coordinator(PARAMS, workspace, load_settings(workspace)).home / "logs"

    def failed(
        run: str, text: str, hours: float, task: str = "round-001.train", attempt: int = 1
    ) -> None:
        folder = logs / "dag_id=federated_linear" / f"run_id={run}" / f"task_id={task}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"attempt={attempt}.log"
        file.write_text(f"no JSON\n{text}")
        os.utime(file, (time.time() - hours * 3600,) * 2)

    quorum = "round.quorum [site-b]: {}. Remedy: Wait."
    failed("one", told_line(quorum.format("Old")), 25)
    failed("two", told_line(quorum.format("Newer")), 2)
    failed("two", told_line(quorum.format("Newest")), 1, attempt=2)
    failed("two", told_line(quorum.format("In between")), 1.5, "evaluate")
    failed("two", told_line("data.missing [site-a]: No dataset. Remedy: Add one."), 3, "prepare")
    failed("two", json.dumps({"event": "well", "logger": "task"}), 0, "conclude")
    told = {what: detail for what, (state, detail) in doctor().items() if "." in what}
    assert set(told) == {"site-a: data.missing", "site-b: round.quorum"}
    assert told["site-b: round.quorum"].startswith("3 tasks failed within a day, the last ")
    assert told["site-b: round.quorum"].endswith(" two/round-001.train: Newest.")
    assert told["site-a: data.missing"].endswith(" two/prepare: No dataset.")


def test_workers_queues_and_versions(workspace: Path, doctor: Doctor) -> None:
    assert doctor()["workers"][0] == "skipped"
    now = datetime.datetime.now(datetime.UTC)
    hour = now - datetime.timedelta(hours=3)
    (workspace / "airflow").mkdir(exist_ok=True)
    with sqlite3.connect(workspace / "airflow" / "airflow.db") as database:
        database.execute(
            "create table edge_worker (worker_name, state, last_update, queues, sysinfo)"
        )
        database.execute("create table edge_job (queue, state)")
        for name, seen, versions in (
            ("site-a", now, {"airflow_version": "3.3.2"}),
            ("site-b", hour, {"airflow_version": "3.2.0", "folkmoot_version": _version(1)}),
        ):
            row = (
                name,
                "idle",
                seen.isoformat(" "),
                repr([f"site-{name}"]),
                json.dumps(versions),
            )
            database.execute("insert into edge_worker values (?, ?, ?, ?, ?)", row)
        for queue in ("site-site-a", "site-site-b", "site-siteb"):
            database.execute("insert into edge_job values (?, 'queued')", (queue,))
    state, told = doctor()["workers"]
    assert state == "warning"
    assert "site-b has been silent for 3 h" in told
    assert "runs" not in told, "versions that are one minor apart work together"
    assert "queue site-site-b, which no worker serves now" in told
    assert "queue site-siteb, which is no site's" in told
    assert "site-site-a" not in told
    with sqlite3.connect(workspace / "airflow" / "airflow.db") as database:
        database.execute("delete from edge_job")
        silent = "update edge_worker set last_update = ?"
        database.execute(silent, (now.isoformat(" "),))
    state, told = doctor()["workers"]
    assert state == "ok"
    assert "site-b runs apache-airflow-core 3.2.0, here it is 3.3.2, which work together" in told
    assert f"site-b runs folkmoot {_version(1)}, here it is {_version(0)}, which work" in told
    with sqlite3.connect(workspace / "airflow" / "airflow.db") as database:
        apart = json.dumps({"folkmoot_version": _version(2)})
        database.execute("update edge_worker set sysinfo = ? where worker_name = 'site-b'", [apart])
        database.execute(
            "update edge_worker set state = 'maintenance mode' where worker_name = 'site-a'"
        )
    state, told = doctor()["workers"]
    assert state == "fault"
    assert f"site-b runs folkmoot {_version(2)}, here it is {_version(0)}" in told
    assert "site-a is in maintenance" in told


class Home:
    name = "site-a"

    class settings:
        class permissions:
            code: list[str] = []


@pytest.mark.parametrize(
    ("asked", "approved", "says"),
    [
        ({"code": "1" * 40}, [], "asks for commit 1111"),
        ({"code": "a" * 40}, ["b" * 40], "does not approve"),
        ({"version": ">=99"}, [], "asks for folkmoot >=99"),
        ({"code": "a" * 40, "version": ">=0.1"}, ["a" * 40], None),
        ({}, [], None),
    ],
)
def test_a_plan_names_the_code_that_sites_run(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], approved: list[str], says: str | None
) -> None:
    monkeypatch.setattr(code, "checkout", lambda: ("a" * 40, False))
    monkeypatch.setattr(Home.settings.permissions, "code", approved)

    class Context:
        params = parse_params({"federation": asked})

    context: Any = Context()
    home: Any = Home()
    if says is None:
        code.check(context, home)
        return
    with pytest.raises(ProtocolError, match=says) as error:
        code.check(context, home)
    assert error.value.code == "protocol.code"


def test_changed_files_are_not_the_commit_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(code, "checkout", lambda: ("a" * 40, True))

    class Context:
        params = parse_params({"federation": {"code": "a" * 40}})

    context: Any = Context()
    home: Any = Home()
    with pytest.raises(FolkmootError, match="with changed files"):
        code.check(context, home)
