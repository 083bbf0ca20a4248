"""A scheduler that was killed is dead for the next one, which takes up what it left."""

from __future__ import annotations

from pathlib import Path

from .conftest import fresh_python

LEFT = """
from airflow.jobs.job import Job, JobState
from airflow.settings import engine
from airflow.utils.session import create_session
from pipelines.hosts.airflow_launch import bury

Job.__table__.create(engine)
with create_session() as session:
    session.add_all([
        Job(job_type=kind, state=state)
        for kind in ("SchedulerJob", "DagProcessorJob") for state in JobState
    ])
bury()
with create_session() as session:
    for job in session.query(Job).order_by(Job.id):
        print(job.job_type, job.state)
"""


def test_no_other_scheduler_counts_as_living(tmp_path: Path) -> None:
    """Airflow waits for a heart-beat to be old, and looks for such schedulers every five minutes."""
    lines = fresh_python(LEFT, tmp_path).splitlines()[-8:]
    assert lines == [
        *(f"SchedulerJob {state}" for state in ("failed", "success", "restarting", "failed")),
        *(f"DagProcessorJob {s}" for s in ("running", "success", "restarting", "failed")),
    ]
