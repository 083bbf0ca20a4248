"""How soon a site's worker asks for the next job, and lets a task go that is over."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.hosts import airflow_pace as pace


class Kind:
    """What of Airflow's worker the pace depends on."""

    job_poll_interval = 1

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.drain = False


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker of a federation of three, whose sleep moves a clock of the test's own."""
    (tmp_path / "federation.json").write_text(json.dumps({"sites": ["a", "b", "c"]}))
    home: Any = SimpleNamespace(private=tmp_path)
    made = pace.paced(Kind, home)()
    made.now = 1000.0

    async def sleep(seconds: float) -> None:
        made.now += seconds
        if made.now > 2000.5:
            made.jobs.clear()

    monkeypatch.setattr("pipelines.hosts.airflow_pace.time.monotonic", lambda: made.now)
    monkeypatch.setattr("pipelines.hosts.airflow_pace.asyncio.sleep", sleep)
    return made


def slept(worker: Any) -> float:
    """Seconds of one sleep."""
    before = worker.now
    asyncio.run(worker.interruptible_sleep())
    return float(worker.now - before)


def test_a_worker_asks_more_often_while_a_run_goes_on(worker: Any) -> None:
    assert slept(worker) == pytest.approx(1.0, abs=0.06)  # nothing to do yet
    worker.jobs.append("job")
    assert slept(worker) == pytest.approx(1.0, abs=0.06)  # has enough to do
    worker.jobs.clear()
    assert slept(worker) == pytest.approx(0.2, abs=0.06)
    worker.now += pace.BUSY
    assert slept(worker) == pytest.approx(1.0, abs=0.06)


def test_the_end_of_a_job_ends_the_sleep(worker: Any) -> None:
    worker.now = 2000.0
    worker.jobs.append("job")
    assert slept(worker) == pytest.approx(0.5, abs=0.11)


def test_many_sites_together_do_not_ask_more_than_fifty_times_a_second() -> None:
    assert [pace.pause(n) for n in (3, 10, 25, 50, 200)] == [0.2, 0.2, 0.5, 1.0, 1.0]


def test_a_task_that_closed_its_lines_is_looked_at_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's loop asks with the seconds until its next heart-beat."""
    from airflow.sdk.execution_time.supervisor import ActivitySubprocess

    waits: list[float] = []

    def serve(self: Any, max_wait_time: float) -> None:
        waits.append(max_wait_time)

    monkeypatch.setattr(ActivitySubprocess, "_service_subprocess", serve)
    pace.let_go()
    for lines in ({"stdout"}, set()):
        process = SimpleNamespace(_open_sockets=lines)
        ActivitySubprocess._service_subprocess(process, max_wait_time=1.0)
    assert waits == [1.0, 0.02]


def test_all_that_is_imported_beforehand_exists() -> None:
    from importlib.util import find_spec

    assert [name for name in pace.PRELOAD if find_spec(name) is None] == []
