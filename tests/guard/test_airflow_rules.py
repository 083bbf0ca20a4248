"""A hostile site at a real Airflow: with all that a site holds, it gets what workers get."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from folkmoot.errors import ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity.visit import Visit

from .hostile import DAG, FETCH, MINE, RUN, STORE, TASKS, THEIRS, WORKER, Hostile

pytestmark = pytest.mark.slow


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
    workers = {name for (name,) in hostile.rows("select worker_name from edge_worker")}
    assert workers - {"site-c"} == {"site-a"}  # site c is one of another module


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
