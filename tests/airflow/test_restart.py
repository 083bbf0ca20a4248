"""What ends is started again, and takes up what was left."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from folkmoot.errors import ConfigError
from pipelines.hosts.airflow_launch import await_database

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


FAILING = """
import os
from types import SimpleNamespace
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from pipelines.hosts.airflow_launch import end_at_once

def loop(self):
    raise OSError("no database")

class Executor:
    def start(self):
        os.write(1, b"started, ")

    def end(self):
        os.write(1, b"waits for its tasks, ")

SchedulerJobRunner._run_scheduler_loop = loop
scheduler = SchedulerJobRunner.__new__(SchedulerJobRunner)
scheduler._enable_tracemalloc = False
scheduler.executors, scheduler.job = [Executor()], SimpleNamespace(id=1)
end_at_once()
pid = os.fork()
if not pid:
    try:
        scheduler._execute()
    finally:
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_scheduler_without_its_database_does_not_wait_for_tasks(tmp_path: Path) -> None:
    """Its `track` task follows the run, which waits for a scheduler: both would wait for ever."""
    said = fresh_python(FAILING, tmp_path)
    assert "started, " in said
    assert "waits" not in said
    assert said.splitlines()[-1] == "1"


WATCHED = """
import os, time
from pathlib import Path
from pipelines.hosts import airflow_launch as launch

starts = []

def start(name, logs, forking, mode="wb"):
    starts.append(name)
    pid = os.fork()
    if not pid:
        time.sleep({"scheduler": 0.2, "dag-processor": 0.9}.get(name, 60))
        os._exit(1)
    return pid

os.dup2(os.pipe()[0], 0)  # whoever started the services lives
launch._start, launch._SETTLED = start, SETTLED
names = ("scheduler", "dag-processor", "api-server")
children = {start(name, None, True): name for name in names}
time.sleep(0.1)
ended = launch._watch(children, [], Path(), True)
launch._end(children)
print(ended, *(starts.count(name) for name in names))
"""


@pytest.mark.parametrize(("settled", "starts"), [(30.0, (1, 1, 1)), (0.0, (6, 2, 1))])
def test_a_service_that_ends_by_itself(
    tmp_path: Path, settled: float, starts: tuple[int, ...]
) -> None:
    """Where it had come up it is started again, each so many times; else it is told at once."""
    made = fresh_python(WATCHED.replace("SETTLED\n", f"{settled}\n"), tmp_path).split()
    assert made[0] == "scheduler"
    assert int(made[1]) == starts[0]
    assert int(made[2]) in {starts[1], starts[1] + 1}
    assert int(made[3]) == starts[2]


def test_a_service_waits_for_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'later' / 'airflow.db'}"
    began = time.monotonic()
    await_database(url, 0.5)  # then Airflow says what it lacks
    assert time.monotonic() - began >= 0.5
    back = threading.Timer(0.5, (tmp_path / "later").mkdir)
    back.start()
    began = time.monotonic()
    await_database(url, 20.0)
    assert back.finished.is_set()
    assert time.monotonic() - began < 10.0
    with pytest.raises(ConfigError):
        await_database("no database", 20.0)
