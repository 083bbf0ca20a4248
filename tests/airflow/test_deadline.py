"""How long a site's task may take is what its run says, whatever the site's own settings are."""

from __future__ import annotations

from pathlib import Path

from .conftest import fresh_python

#: A site's own settings say nothing of the deadline; its run says one second.
LATE = """
import contextlib, time
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowFailException
from folkmoot.params import parse_params
from pipelines.hosts import airflow_tasks
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of

params = parse_params({"federation": {"sites": ["b"], "deadline_seconds": 1}})
run = SimpleNamespace(run="run-1", params=params, contract=contract_for(params))
step = next(s for s in plan_of(run.params, run.contract) if s.place == "b")
own = SimpleNamespace(
    params=parse_params({}), folder=contextlib.nullcontext, context=lambda name: run
)
airflow_tasks._bound = lambda step, run: step
airflow_tasks.execute = lambda step, run: time.sleep(8) or ()
task = airflow_tasks.SiteTask(
    task_id=airflow_tasks.task_id(step).replace(".", "_"), step="", site="b", project=own
)
airflow_tasks.task_id = lambda step: task.task_id
try:
    task.execute({"params": {"run": "run-1"}, "ti": SimpleNamespace(try_number=1, max_tries=0)})
except AirflowFailException as error:
    print(error)
"""


def test_a_sites_task_ends_at_the_deadline_of_its_run(tmp_path: Path) -> None:
    assert "did not finish within 1 s" in fresh_python(LATE, tmp_path)


#: What else could end the wait for a site: its job's token, and who clears the queue.
AWAY = """
import os, sys, time
from pathlib import Path
from folkmoot.params import parse_params
from pipelines.hosts.airflow_coordinator import Coordinator, ServerSettings

params = parse_params({"federation": {"deadline_seconds": 86400}})
coordinator = Coordinator(params, Path.cwd(), ServerSettings(), beside=True)
coordinator.home.mkdir()
settings = coordinator._settings()
for section in ("scheduler", "api_auth", "execution_api"):
    for key, value in settings.get(section, {}).items():
        os.environ[f"AIRFLOW__{section}__{key}".upper()] = value

import jwt
from airflow.api_fastapi.execution_api.app import _jwt_generator
from airflow.executors.workloads.base import BaseWorkloadSchema
from airflow.providers.edge3.executors.edge_executor import _PURGE_HANDLED_STATES
from airflow.utils.state import TaskInstanceState

token = BaseWorkloadSchema.generate_token("task", _jwt_generator())
claims = jwt.decode(token, options={"verify_signature": False})
print(round((claims["exp"] - time.time()) / 3600), TaskInstanceState.QUEUED in _PURGE_HANDLED_STATES)
print(settings["scheduler"]["task_queued_timeout"])
"""


def test_nothing_ends_the_wait_for_a_site_before_its_deadline(tmp_path: Path) -> None:
    assert fresh_python(AWAY, tmp_path).split()[-3:] == ["24", "False", "86400"]
