"""What a real worker and a real API server are after they were killed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import folkmoot
from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from folkmoot.identity.visit import Visit
from pipelines.guard.sites import Member
from pipelines.hosts.airflow_worker_setup import prepare
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file
from site_tasks.maintenance import maintain, maintenance

from .hostile import THEIRS, Hostile

pytestmark = pytest.mark.slow


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
