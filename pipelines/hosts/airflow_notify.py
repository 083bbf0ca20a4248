"""Who is told when a run is late or failed: notifiers by configuration.

``notifiers`` of ``coordinator/server.toml`` names classes of Airflow's notifiers (``BaseNotifier``:
mail, Slack, Apprise …) with their arguments; :class:`Webhook` here posts JSON.  A run that goes on for
longer than ``late_after_seconds`` is told through Airflow's deadline alerts, with the sites that it
waits for.
Messages hold names of sites, runs and stages, no more.
"""

from __future__ import annotations

import importlib
import json
import os
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from folkmoot.errors import FolkmootError
from folkmoot.plan import RunContext, keys
from pipelines.hosts.airflow_project import load_project, run_name
from pipelines.hosts.server_settings import secret
from pipelines.hosts.walk import last_round, record

__all__ = ["Webhook", "alerts", "late_sites", "notifiers", "run_is_late"]

#: What ``coordinator up`` tells the DAG files.
VARIABLE = "FOLKMOOT_NOTIFY"


class Webhook(BaseNotifier):  # type: ignore[misc]
    """Post a message as JSON.

    Parameters
    ----------
    url : str
        Where to; ``file:/path`` names a file that holds it.
    """

    template_fields = ()

    def __init__(self, url: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.url = url

    def notify(self, context: Any) -> None:
        """Post what :func:`_message` says."""
        import httpx

        url = secret(self.url, "notifiers") or ""
        httpx.post(url, json=_message(context), timeout=30.0).raise_for_status()


def notifiers() -> list[Any]:
    """The configured notifiers, made."""
    made = []
    for path, arguments in (
        json.loads(os.environ.get(VARIABLE) or "{}").get("notifiers", {}).items()
    ):
        module, _, name = path.rpartition(".")
        made.append(getattr(importlib.import_module(module), name)(**arguments))
    return made


def alerts() -> dict[str, Any]:
    """What a federated DAG is given: a deadline, and callbacks for failure."""
    told = json.loads(os.environ.get(VARIABLE) or "{}")
    found: dict[str, Any] = {}
    if told.get("notifiers"):
        found["on_failure_callback"] = notifiers()
    if told.get("late"):
        found["deadline"] = DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(seconds=told["late"]),
            callback=SyncCallback(f"{__name__}.run_is_late"),
        )
    return found


def run_is_late(context: Any = None, **_: Any) -> None:
    """What the deadline calls: log and tell which sites the run waits for."""
    run = (context or {}).get("dag_run") or {}
    values = run if isinstance(run, dict) else vars(run)
    dag = str(values.get("dag_id", ""))
    dag_run = str(values.get("dag_run_id") or values.get("run_id") or "")
    told: dict[str, Any] = {"late": True, "dag": dag, "dag_run": dag_run}
    try:
        project = load_project(dag.removeprefix("federated_"))
        with project.folder():
            name = (values.get("conf") or {}).get("run") or run_name(dag, dag_run)
            opened = project.context(name)
            stage, sites = late_sites(opened)
        told |= {"federation": opened.federation, "run": name, "stage": stage, "sites": sites}
    except FolkmootError as error:
        told["note"] = error.code
    print(f"Late: {json.dumps(told)}", flush=True)
    for notifier in notifiers():
        notifier.notify({**(context or {}), "folkmoot": told, "exception": told})


def late_sites(run: RunContext) -> tuple[str, list[str]]:
    """The stage that a run is in, and the members that have published nothing in it."""
    last = last_round(run)
    found = record(run, last) or {}
    if not run.store.find(run.key(keys.model(0))):
        stage = "round-000"
    elif last >= run.params.rounds or found.get("stop"):
        stage = "final"
    else:
        stage = f"round-{last + 1:03d}"
    there = run.store.list(run.key(stage))
    late = [s for s in run.params.federation.members if not any(k.endswith(f"-{s}") for k in there)]
    return stage, late


def _message(context: Any) -> dict[str, Any]:
    """What a notifier says: of a late run, else of a failed one."""
    if "folkmoot" in context:
        return dict(context["folkmoot"])
    run, task = context.get("dag_run"), context.get("ti") or context.get("task_instance")
    return {
        "late": False,
        "dag": str(getattr(run, "dag_id", "")),
        "dag_run": str(getattr(run, "run_id", "")),
        "task": str(getattr(task, "task_id", "")),
    }
