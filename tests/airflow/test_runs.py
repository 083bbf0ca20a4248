"""Trainings in a real Airflow: early stop, a site that fails, quorum lost, resume, new data."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import httpx
import pytest

from folkmoot.errors import RoundError, TransientError
from pipelines.coordinator import lock
from pipelines.hosts.airflow_api import error_in
from pipelines.hosts.airflow_run import environment, run

from .conftest import ROUNDS, Federation

pytestmark = pytest.mark.slow
LINEAR = "federated_linear"
ENDED = {"success", "failed", "skipped", "upstream_failed"}


def record(federation: Federation, run: str, round: int) -> dict[str, Any] | None:
    data = federation.store.find(f"demo/runs/{run}/round-{round:03d}/record.json")
    return None if data is None else dict(json.loads(data))


def result(federation: Federation, run: str) -> dict[str, Any]:
    return dict(json.loads(federation.store.get(f"demo/runs/{run}/final/result.json")))


@pytest.fixture(scope="module")
def stopped(federation: Federation) -> tuple[str, dict[str, str]]:
    """A run that converges before its last round."""
    dag_run = federation.airflow.trigger(LINEAR, {"run": "early", "tolerance": 0.1})
    return federation.finish(LINEAR, dag_run)


def test_a_training_ends_well(federation: Federation, stopped: tuple[str, dict[str, str]]) -> None:
    state, tasks = stopped
    assert state == "success", tasks
    assert result(federation, "early")["metrics"]["overall"]["auc"] > 0.97
    for name in ("open", "conclude", "report", "register", "track"):
        assert tasks[name] == "success", name
    folder = federation.workspace / "coordinator" / "demo" / "runs" / "early"
    registered = json.loads((folder / "registered.json").read_text())
    assert (registered["name"], registered["version"]) == ("demo-linear", 1)
    assert (folder / "model.folkmoot").exists()
    assert lock.holder(federation.workspace, "demo") is None


def test_early_stop_skips_later_rounds(
    federation: Federation, stopped: tuple[str, dict[str, str]]
) -> None:
    _, tasks = stopped
    last = result(federation, "early")["rounds"]
    assert 1 < last < ROUNDS
    assert result(federation, "early")["stop"] == "converged"
    for name, state in tasks.items():
        if name.startswith("round-"):
            expected = "success" if int(name[6:9]) <= last else "skipped"
            assert state == expected, name


def test_xcom_carries_references_and_digests_only(
    federation: Federation, stopped: tuple[str, dict[str, str]]
) -> None:
    assert stopped[0] == "success"
    database = f"file:{federation.airflow.home / 'airflow.db'}?mode=ro"
    with sqlite3.connect(database, uri=True) as connection:
        values = [
            json.loads(value)
            for (value,) in connection.execute("select value from xcom where task_id like 'round%'")
        ]
    assert len(values) >= 5
    for value in values:
        refs = json.loads(value) if isinstance(value, str) else value
        for ref in refs:
            assert set(ref) == {"key", "digest", "size"}
            assert len(ref["digest"]) == 64


def test_resuming_a_finished_run_repeats_nothing(
    federation: Federation, stopped: tuple[str, dict[str, str]]
) -> None:
    before = federation.store.ref("demo/runs/early/final/result.json")
    state, tasks = federation.finish(LINEAR, federation.airflow.trigger(LINEAR, {"run": "early"}))
    assert state == "success"
    assert tasks == stopped[1]
    assert federation.store.ref("demo/runs/early/final/result.json") == before


def test_a_site_that_fails_is_left_out(federation: Federation) -> None:
    key = federation.workspace / "sites" / "site-b" / "private" / "signing.key"
    dag_run = federation.airflow.trigger(LINEAR, {"run": "left-out", "track": False})
    deadline = time.monotonic() + 120
    while record(federation, "left-out", 1) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hidden = key.rename(key.with_name("hidden"))
    try:
        state, tasks = federation.finish(LINEAR, dag_run)
    finally:
        hidden.rename(key)
    assert state == "success", tasks
    mine = [tasks[f"round-{r:03d}.train-site-b-{r:03d}"] for r in range(1, ROUNDS + 1)]
    failed = mine.index("failed")
    assert mine == ["success"] * failed + ["failed"] + ["skipped"] * (ROUNDS - failed - 1)
    assert tasks["evaluate.site-b"] == "skipped"
    others = {n: s for n, s in tasks.items() if n.startswith("round-") and "site-b" not in n}
    assert set(others.values()) == {"success"}
    kept = record(federation, "left-out", failed + 1)
    assert kept is not None
    assert set(kept["missing"]) == {"site-b"}
    assert sorted(kept["participants"]) == ["site-a", "site-c", "site-d"]
    name = f"round-{failed + 1:03d}.train-site-b-{failed + 1:03d}"
    site_log = federation.airflow.task_log(LINEAR, dag_run, name)
    assert "config.missing-file [site-b]" in site_log
    aggregate = f"round-{failed + 1:03d}.aggregate-{failed + 1:03d}"
    assert "site-b is left out" in federation.airflow.task_log(LINEAR, dag_run, aggregate)


def test_a_lost_quorum_ends_the_run_and_frees_the_federation(federation: Federation) -> None:
    keys = [
        federation.workspace / "sites" / site / "private" / "secret.key"
        for site in ("site-a", "site-b")
    ]
    hidden = [key.rename(key.with_name("hidden")) for key in keys]
    try:
        dag_run = federation.airflow.trigger(LINEAR, {"run": "no-quorum"})
        state, tasks = federation.finish(LINEAR, dag_run)
    finally:
        for key, away in zip(keys, hidden, strict=True):
            away.rename(key)
    assert state == "failed"
    assert tasks["initialise"] == "failed"
    rounds = {s for n, s in tasks.items() if n.startswith("round-")}
    assert rounds <= {"skipped", "upstream_failed"}
    error = error_in(federation.airflow.task_log(LINEAR, dag_run, "initialise"))
    assert isinstance(error, RoundError)
    assert (error.code, error.remedy != "") == ("round.quorum", True)
    assert lock.holder(federation.workspace, "demo") is None


def test_a_login_that_is_over_is_made_anew(federation: Federation) -> None:
    """It is good for a day: a run that waits for a site may take longer."""
    airflow = federation.airflow
    assert airflow.api("GET", "/dags")["total_entries"]
    airflow._client.headers["Authorization"] = "Bearer expired"
    assert airflow.api("GET", "/dags")["total_entries"]


def test_the_form_refuses_bad_values(federation: Federation) -> None:
    for bad in ({"rounds": ROUNDS + 1}, {"l2": -1.0}, {"mechanism": "magic"}):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            federation.airflow.trigger(LINEAR, bad)
        assert refused.value.response.status_code == 400


def test_values_that_contradict_each_other_fail_at_once(federation: Federation) -> None:
    dag_run = federation.airflow.trigger(LINEAR, {"run": "contrary", "mechanism": "gaussian"})
    state, tasks = federation.finish(LINEAR, dag_run)
    assert (state, tasks["open"]) == ("failed", "failed")
    error = error_in(federation.airflow.task_log(LINEAR, dag_run, "open"))
    assert error is not None
    assert error.code == "config.invalid"
    assert "noise_multiplier" in error.message


def test_a_second_run_waits_for_the_first(federation: Federation) -> None:
    airflow = federation.airflow
    lock.acquire(federation.workspace, "demo", "another", "airflow", 600)
    try:
        dag_run = airflow.trigger(LINEAR, {"run": "second", "track": False, "rounds": 1})
        deadline = time.monotonic() + 60
        while airflow.tasks(LINEAR, dag_run)["open"]["state"] != "up_for_retry":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        error = error_in(airflow.task_log(LINEAR, dag_run, "open"))
    finally:
        lock.release(federation.workspace, "demo", "another")
    assert error is not None
    assert error.code == "round.busy"
    assert federation.finish(LINEAR, dag_run)[0] == "success"
    assert result(federation, "second")["rounds"] == 1


def test_a_command_does_not_wait_for_another_run(federation: Federation) -> None:
    with pytest.raises(TransientError, match="runs Airflow in"):
        run(federation.params, run="beside", workspace=federation.workspace)


def begun_by_data(federation: Federation) -> list[tuple[str, str]]:
    """DAG and run of the trainings that new data started, linear models and trees."""
    runs = federation.airflow.api("GET", "/dags/~/dagRuns", params={"limit": 100})["dag_runs"]
    return [(r["dag_id"], r["dag_run_id"]) for r in runs if r["run_type"] == "asset_triggered"]


def test_new_data_starts_a_training(federation: Federation) -> None:
    airflow = federation.airflow
    state, tasks = federation.finish("refresh_site_data", airflow.trigger("refresh_site_data"))
    assert state == "success"
    assert tasks["announce"] == "success"
    deadline = time.monotonic() + 60
    while LINEAR not in dict(begun_by_data(federation)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    while True:
        try:
            events = airflow.api("GET", "/assets/events", params={"limit": 100})["asset_events"]
            break
        except httpx.HTTPStatusError:  # Airflow's answer until the runs that events made start
            assert time.monotonic() < deadline
            time.sleep(0.3)
    changed = {e["uri"]: e["extra"] for e in events if e["uri"].startswith("folkmoot://demo/")}
    assert len(changed) == 4
    assert all(len(extra["dataset"]) == 64 for extra in changed.values())
    _, again = federation.finish("refresh_site_data", airflow.trigger("refresh_site_data"))
    assert again["announce"] == "skipped"
    # Tests may come in any order: the next one finds the federation free.
    for dag, started in begun_by_data(federation):
        airflow.end_run(dag, started, "Seen by a test.")
        while {t["state"] for t in airflow.tasks(dag, started).values()} - ENDED:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    time.sleep(2)  # a task whose run was ended hears of it at its next heart-beat, after a second
    if (held := lock.holder(federation.workspace, "demo")) is not None:
        lock.release(federation.workspace, "demo", held)


def test_dags_of_one_run_do_not_start_by_themselves(federation: Federation) -> None:
    told = environment(federation.params, federation.workspace, scheduled=False)
    assert told["FOLKMOOT_UNSCHEDULED"] == "1"
