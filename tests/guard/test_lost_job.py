"""A job whose worker was killed between taking and beginning it is queued again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow.conftest import fresh_python

from .conftest import Door, KnownJobs
from .test_removed import FETCH

LOST = """
from datetime import timedelta
from airflow.providers.edge3.models.edge_job import EdgeJobModel as Row
from airflow.settings import engine
from airflow.utils import timezone
from airflow.utils.session import create_session
from pipelines.hosts.airflow_guard import DatabaseJobs

Row.__table__.create(engine)
now = timezone.utcnow()
cases = {
    "lost": ("restarting", "site-site-a", 61),
    "about-to-begin": ("restarting", "site-site-a", 30),
    "running": ("running", "site-site-a", 600),
    "of-another": ("restarting", "site-site-b", 600),
}
with create_session() as session:
    for name, (state, queue, age) in cases.items():
        session.add(Row(
            dag_id="dag", task_id=name, run_id="run", map_index=-1, try_number=1, state=state,
            queue=queue, concurrency_slots=1, command="{}", edge_worker=queue.removeprefix("site-"),
            last_update=now - timedelta(seconds=age),
        ))
DatabaseJobs._put_back("site-site-a", DatabaseJobs.BEGUN)
with create_session() as session:
    for row in session.query(Row).order_by(Row.task_id):
        print(row.task_id, row.state, row.edge_worker)
"""


def test_a_job_that_nobody_began_is_queued_again(tmp_path: Path) -> None:
    """Airflow leaves it with the worker that is gone, for as long as the site may be late."""
    assert fresh_python(LOST, tmp_path).splitlines()[-4:] == [
        "about-to-begin restarting site-a",
        "lost queued None",
        "of-another restarting site-b",
        "running running site-a",
    ]


def test_a_worker_that_asks_for_work_has_its_queue_looked_through(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def put_back(self: KnownJobs, queue: str) -> None:
        assert not door.through  # before Airflow looks for a job
        looked.append(queue)

    monkeypatch.setattr(KnownJobs, "put_back", put_back)
    body = {"queues": ["site-site-a"], "free_concurrency": 1, "supports_task_instance_uuid": True}
    assert door.send(door.guard(), "POST", FETCH, site="site-a", json=body).status_code == 200
    assert looked == ["site-site-a"]
    assert len(door.through) == 1
