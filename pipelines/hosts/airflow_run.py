"""One training through a local Airflow: start it, trigger the DAG, tell what happens, stop it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from folkmoot.errors import FolkmootError, RoundError
from folkmoot.params import Params
from folkmoot.plan import RunContext, keys
from pipelines.coordinator import lock
from pipelines.coordinator.open_round import load_json, open_run, run_name
from pipelines.hosts.airflow_api import Client, error_in
from pipelines.hosts.airflow_services import Services
from pipelines.hosts.embedded import Progress
from pipelines.hosts.execute import open_context, store_of
from pipelines.hosts.walk import contract_for, ensure_members, record, roster_for

__all__ = ["environment", "local_airflow", "run", "watch"]

_INTERVAL = 0.3
_PHASES = {
    "evaluate": "The sites evaluate the final model on their held-out rows",
    "report": "Baselines: each site alone, and pooled rows",
    "register": "MLflow: the model is registered",
}


def environment(params: Params, workspace: Path, *, scheduled: bool) -> dict[str, str]:
    """What tells DAG files which params, workspace and schedule to take.

    Parameters
    ----------
    params : Params
        What the DAGs train; kept as ``airflow/params.yaml`` of the workspace.
    workspace : Path
        Folder of sites and runs.
    scheduled : bool
        Whether DAGs start by themselves.
    """
    file = workspace.absolute() / "airflow" / "params.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    os.replace(part, file)
    return {
        **_slots(params),
        "FOLKMOOT_PARAMS": str(file),
        "FOLKMOOT_ROOT": str(Path.cwd()),
        "FOLKMOOT_WORKSPACE": str(workspace.absolute()),
        "FOLKMOOT_UNSCHEDULED": "" if scheduled else "1",
    }


def _slots(params: Params) -> dict[str, str]:
    """A live session needs a slot for every site, the tracker and MLflow at the same time."""
    if params.kind != "trees" or params.model.trees.strategy != "xgboost_federated":
        return {}
    slots = str(max(8, len(params.federation.sites) + 4))
    return {
        "AIRFLOW__CORE__PARALLELISM": slots,
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": slots,
    }


def local_airflow(
    params: Params, workspace: Path, *, scheduled: bool, eager: bool | None = None
) -> Services:
    """Airflow of a workspace with the project's DAGs, not started yet; see :func:`environment`."""
    return Services(
        workspace.absolute() / "airflow",
        environment=environment(params, workspace, scheduled=scheduled),
        # Any free port where Airflow ends with the run: two that both want 8080 could meet there.
        port=8080 if scheduled else 0,
        eager=not scheduled if eager is None else eager,
    )


def run(
    params: Params,
    *,
    run: str | None = None,
    workspace: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a federation as an Airflow DAG, or resume it; Airflow is started and stopped for it.

    Parameters
    ----------
    params : Params
        Typed ``params.yaml``.
    run : str, optional
        Name of the run; by default the unfinished run of the same params, else a new one.
    workspace : Path, optional
        Instead of ``federation.workspace``.
    progress : Progress, optional
        Told of phases and rounds.

    Returns
    -------
    dict
        The run's ``result.json`` with ``seconds`` (set-up, preparation, rounds, evaluation).

    Raises
    ------
    FolkmootError
        The error of the task that ended the DAG run.
    """
    progress = progress or Progress()
    started = time.time()
    workspace = workspace or Path(params.federation.workspace)
    with local_airflow(params, workspace, scheduled=False) as airflow:
        progress.say("Airflow starts: scheduler, API server, dag-processor")
        ensure_members(params, workspace, progress.say)
        store = store_of(params, workspace)
        contract, roster = contract_for(params), roster_for(workspace)
        name = run or run_name(params, contract, roster, store)
        patience = 2.0 * params.federation.deadline_seconds
        lock.acquire(workspace, params.federation.name, name, "airflow", patience)
        open_run(params, contract, roster, name, store, workspace)
        airflow.wait_ready()
        progress.say(f"Airflow is up: {airflow.url}")
        dag = f"federated_{params.kind}"
        airflow.wait_dag(dag, started)
        _abandon(airflow, dag)
        dag_run = airflow.trigger(dag, {"run": name})
        return watch(airflow, dag, dag_run, params, name, workspace, progress, started)


def watch(
    airflow: Client,
    dag: str,
    dag_run: str,
    params: Params,
    name: str,
    workspace: Path,
    progress: Progress,
    started: float,
) -> dict[str, Any]:
    """Follow a DAG run to its end; see :func:`run`."""
    news = _News(params, name, workspace, progress)
    while True:
        state = airflow.dag_run(dag, dag_run)["state"]
        context = news.look()
        if state in {"success", "failed"}:
            break
        if news.rounds_over:
            news.follow(airflow.tasks(dag, dag_run))
        time.sleep(_INTERVAL)
    tasks = airflow.tasks(dag, dag_run)
    if state == "failed" or context is None:
        raise _failure(airflow, dag, dag_run, tasks.values())
    result = load_json(context, keys.RESULT) or {}
    return {**result, **_registered(context), "seconds": _seconds(tasks, started)}


class _News:
    """Tells what the exchange store shows since the last look, then how the DAG's end goes."""

    def __init__(self, params: Params, name: str, workspace: Path, progress: Progress) -> None:
        self._params, self._name, self._workspace = params, name, workspace
        self._store = store_of(params, workspace)
        self._progress = progress
        self._context: RunContext | None = None
        self._told = 0
        self._said: set[str] = set()
        self.rounds_over = False

    def look(self) -> RunContext | None:
        """Tell what is new; returns the run's context once it is open."""
        federation = self._params.federation
        if self._context is None:
            if not self._store.find(f"{federation.name}/runs/{self._name}/{keys.RUN}"):
                return None
            self._context = open_context(self._name, federation.name, self._store, self._workspace)
            self._say(f"Run {self._name}: {len(federation.sites)} sites prepare their data")
        context = self._context
        if not self._told:
            for site in federation.members:
                if self._store.find(context.key(keys.statistics(site))):
                    self._say(f"{site}: rows validated, anonymised and encoded")
        while (found := record(context, self._told + 1)) is not None:
            self._told += 1
            self._progress.round(self._told, context.params.rounds, found)
            for site, code in found["missing"].items():
                self._say(f"{site} is left out from round {self._told} on: {code}", site)
            if found["stop"]:
                self._say(f"Rounds end after round {self._told}: {found['stop']}")
            self.rounds_over = bool(found["stop"]) or self._told >= context.params.rounds
        return context

    def follow(self, tasks: dict[str, dict[str, Any]]) -> None:
        """Tell which of the last tasks run."""
        for name in ("evaluate", "report", "register"):
            states = {t["state"] for n, t in tasks.items() if n.split(".")[0] == name}
            if states & {"running", "success"}:
                self._say(_PHASES[name])

    def _say(self, message: str, once: str | None = None) -> None:
        if (once or message) not in self._said:
            self._said.add(once or message)
            self._progress.say(message)


def _abandon(airflow: Client, dag: str) -> None:
    """End DAG runs that a killed Airflow left behind: their work goes on under the run's name."""
    query = {"state": ["running", "queued"]}
    for stale in airflow.api("GET", f"/dags/{dag}/dagRuns", params=query)["dag_runs"]:
        airflow.end_run(dag, stale["dag_run_id"], "Its Airflow was stopped; a later run took over.")


def _registered(context: RunContext) -> dict[str, Any]:
    """What the DAG registered in MLflow."""
    from pipelines.conclusion import run_folder

    path = run_folder(context) / "registered.json"
    if not path.exists():
        return {}
    return {"registered": json.loads(path.read_text())}


def _failure(
    airflow: Client, dag: str, dag_run: str, tasks: Iterable[dict[str, Any]]
) -> FolkmootError:
    """The error of the first task that failed for good, as it was raised there."""
    failed = [task for task in tasks if task["state"] == "failed"]
    if not failed:
        return RoundError(
            "round.site-failed", f"DAG run {dag_run} failed.", f"See it in Airflow: {airflow.url}."
        )
    # A site's own error says more than the quorum that broke over it.
    first = min(failed, key=lambda t: (t["end_date"], t["task_id"]))
    text = airflow.task_log(dag, dag_run, first["task_id"], first["try_number"])
    return error_in(text) or RoundError(
        "round.site-failed",
        f"Task {first['task_id']} of DAG {dag} failed.",
        f"See its log below {airflow.logs.parent}.",
    )


def _seconds(tasks: dict[str, dict[str, Any]], started: float) -> dict[str, float]:
    """Laps between the ends of the tasks that close each phase."""
    ends = {
        name: datetime.fromisoformat(task["end_date"]).timestamp()
        for name, task in tasks.items()
        if task["state"] == "success" and task["end_date"]
    }
    rounds = max(end for name, end in ends.items() if ".aggregate" in name)
    laps = [started, ends["open"], ends["initialise"], rounds, ends["conclude"]]
    names = ("set_up", "preparation", "rounds", "evaluation")
    return {n: round(b - a, 4) for n, (a, b) in zip(names, pairwise(laps), strict=True)}
