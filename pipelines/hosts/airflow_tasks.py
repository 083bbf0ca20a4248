"""What Airflow's tasks do: open a run, execute a step of its plan, track it.

Operators of our own rather than TaskFlow functions: they render no templates and load no provider,
which would cost every task of every round.  A task's process derives the run's name from its DAG
run, reads ``run.json`` from the exchange store and calls ``execute``; XCom gets references and
digests only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    DownstreamTasksSkipped,
)

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, FolkmootError, RoundError
from folkmoot.identity import Roster
from folkmoot.params import Params, load_params, parse_params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.wire import decode
from pipelines.coordinator import lock
from pipelines.hosts.execute import execute, open_context, store_of
from pipelines.hosts.walk import contract_for, ending, last_round, record, roster_for
from pipelines.plans import plan_of

__all__ = [
    "OpenRun",
    "Project",
    "ProjectTask",
    "RegisterModel",
    "Report",
    "SiteTask",
    "StageTask",
    "TrackRun",
    "load_project",
    "run_name",
    "task_id",
]

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """The settings that DAG files are made of.

    Parameters
    ----------
    root : Path
        Folder that relative paths of ``params.yaml`` start from.
    params : Params
        Settings with ``model.kind`` as the DAG wants it.
    """

    root: Path
    params: Params

    @property
    def workspace(self) -> Path:
        """The workspace as an absolute path; ``FOLKMOOT_WORKSPACE`` goes before the settings."""
        return self.root / (
            os.environ.get("FOLKMOOT_WORKSPACE") or self.params.federation.workspace
        )

    @property
    def scheduled(self) -> bool:
        """Whether DAGs start by themselves: not in an Airflow that was started for one run."""
        return not os.environ.get("FOLKMOOT_UNSCHEDULED")

    @contextlib.contextmanager
    def folder(self) -> Iterator[None]:
        """Work in the project's folder, so that its relative paths hold."""
        with contextlib.chdir(self.root):
            yield

    def contract(self) -> Contract:
        """The federation's contract."""
        with self.folder():
            return contract_for(self.params)

    def outside(self) -> RunContext:
        """Context of work that belongs to no run, such as refreshing a site's dataset."""
        store = store_of(self.params, self.workspace)
        return RunContext(
            "refresh", self.params, self.contract(), Roster({}), store, self.workspace
        )

    def context(self, run: str) -> RunContext:
        """Context of a run that was opened."""
        store = store_of(self.params, self.workspace)
        return open_context(run, self.params.federation.name, store, self.workspace)


def load_project(kind: str | None = None) -> Project:
    """Read the settings: ``FOLKMOOT_PARAMS``, or the project's ``params.yaml``.

    ``FOLKMOOT_ROOT`` names the folder that relative paths start from, where it is not the file's.
    """
    file = Path(os.environ.get("FOLKMOOT_PARAMS") or ROOT / "params.yaml")
    root = Path(os.environ.get("FOLKMOOT_ROOT") or file.resolve().parent)
    params = load_params(file, [] if kind is None else [f"model.kind={kind}"])
    return Project(root, params)


def run_name(dag: str, dag_run: str) -> str:
    """Name of the federation's run that a DAG run carries out; the same at every retry."""
    mark = hashlib.sha256(f"{dag}\n{dag_run}".encode()).hexdigest()[:6]
    readable = re.sub(r"[^a-z0-9]+", "-", dag_run.lower()).strip("-")[:64]
    return f"{dag.removeprefix('federated_')}-{readable}-{mark}"


def task_id(step: Step | str) -> str:
    """Airflow's id of a step's task: ``round-003/train/site-a`` is ``round-003.train-site-a``."""
    parts = (step if isinstance(step, str) else step.name).split("/")
    if parts[0] == "prepare":
        return f"prepare.{parts[2]}.{parts[1]}-{parts[2]}"
    if parts[0] == "final":
        return "-".join(parts[1:]) if len(parts) < 3 else f"evaluate.{parts[2]}"
    if parts[-1] == "initialise":
        return "initialise"
    return f"{parts[0]}.{'-'.join([*parts[1:], parts[0].removeprefix('round-')])}"


def acquire_lock(run: RunContext) -> None:
    """Make the run the federation's active one; raises ``round.busy`` beside another."""
    patience = 2.0 * run.params.federation.deadline_seconds
    lock.acquire(run.workspace, run.federation, run.run, "airflow", patience)


class ProjectTask(BaseOperator):  # type: ignore[misc]
    """Common ground: the project's folder, the run's name, and errors as Airflow wants them."""

    def __init__(self, *, project: Project, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.project = project

    def execute(self, context: Any) -> Any:
        """Do the work; see :meth:`work`."""
        try:
            with self.project.folder():
                return self.work(context)
        except AirflowTaskTimeout:
            seconds = self.project.params.federation.deadline_seconds
            raise AirflowFailException(
                f"{self.task_id} did not finish within {seconds} s (federation.deadline_seconds)."
            ) from None
        except FolkmootError as error:
            if not error.retryable or _last_try(context):
                self.give_up(context)
            failure = AirflowException if error.retryable else AirflowFailException
            raise failure(str(error)) from None
        except AirflowException:
            raise
        except Exception:
            if _last_try(context):
                self.give_up(context)
            raise

    def work(self, context: Any) -> Any:
        """What the task does."""
        raise NotImplementedError

    def give_up(self, context: Any) -> None:
        """What has to happen where the task fails for good."""

    def run(self, context: Any) -> str:
        """Name of the run."""
        named = context["params"].get("run")
        return named or run_name(context["dag"].dag_id, context["dag_run"].run_id)


def _last_try(context: Any) -> bool:
    return bool(context["ti"].try_number > context["ti"].max_tries)


class CoordinatorTask(ProjectTask):
    """A coordinator's task: where it fails for good, what would follow it is skipped.

    Aggregates wait for all sites, well or not, so that without this every later round would start
    and fail in its turn.
    """

    step = ""

    def give_up(self, context: Any) -> None:
        """Skip all later stages but the conclusion, which fails the DAG run; free the federation."""
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import SkipDownstreamTasks

        params, workspace = self.project.params, self.project.workspace
        lock.release(workspace, params.federation.name, self.run(context))
        later = [task_id(s) for s in self.later() if s.name != "final/conclude"]
        if later:
            # What DownstreamTasksSkipped does, for a task that fails at the same time.
            task_runner.SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=list(later)))

    def later(self) -> tuple[Step, ...]:
        """Steps of the DAG behind this one; the DAG may have more rounds than the run."""
        steps = plan_of(self.project.params, self.project.contract()).steps
        names = [step.name for step in steps]
        return steps[names.index(self.step) + 1 :] if self.step else steps


class OpenRun(CoordinatorTask):
    """Fix params, contract and roster of a run under its name."""

    def __init__(self, *, form: Mapping[str, str], rounds: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.form = dict(form)
        self.rounds = rounds

    def work(self, context: Any) -> dict[str, str]:
        """Publish ``run.json``; returns name and digests."""
        from pipelines.coordinator.open_round import open_run
        from pipelines.simulation import ensure_sites

        run, workspace = self.run(context), self.project.workspace
        store = store_of(self.project.params, workspace)
        if store.find(f"{self.project.params.federation.name}/runs/{run}/{keys.RUN}"):
            log.info("Run %s was opened before: its params hold, not the form's", run)
            opened = self.project.context(run)
        else:
            params = self._params(context["params"])
            if params.data.recipe not in {"csv", "parquet"}:
                ensure_sites(params, workspace, log.info)
            roster = roster_for(workspace)
            opened = open_run(params, contract_for(params), roster, run, store, workspace)
        plan = plan_of(opened.params, opened.contract)
        if plan.rounds > self.rounds:
            raise ConfigError(
                "config.invalid",
                f"Run {run} has {plan.rounds} rounds, the DAG has {self.rounds}.",
                f"Raise model.{plan.kind}.rounds in params.yaml.",
            )
        acquire_lock(opened)
        log.info("Run %s: %d sites, at most %d rounds", run, len(plan.sites), plan.rounds)
        return {
            "run": run,
            "plan": plan.digest(),
            "params": opened.params.digest(),
            "contract": opened.contract.digest(),
        }

    def _params(self, filled: Mapping[str, Any]) -> Params:
        """``params.yaml`` with what the form changed."""
        values = self.project.params.model_dump(mode="json")
        for name, key in self.form.items():
            *sections, last = key.split(".")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[last] = filled[name]
        return parse_params(values, source="the DAG run's form")


def _bound(step: Step, run: RunContext) -> Step:
    """The step as this run needs it: evaluation follows the round that was last."""
    if not step.name.startswith("final/"):
        return step
    last = last_round(run)
    found = record(run, last) or {}
    if last < run.params.model.rounds and not found.get("stop"):
        raise RoundError(
            "round.quorum",
            f"Run {run.run} ended after round {last} of {run.params.model.rounds}.",
            "See the task that failed; clear it once its cause is mended, and the run goes on.",
        )
    return ending(step, last)


class SiteTask(ProjectTask):
    """One step at a site, beside its data."""

    def __init__(self, *, step: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.step = step

    def work(self, context: Any) -> list[dict[str, str | int]] | None:
        """Execute the step; returns references to what it published."""
        run = self.project.context(self.run(context))
        step = plan_of(run.params, run.contract).step(self.step)
        return [ref.to_dict() for ref in execute(_bound(step, run), run)] or None


class StageTask(CoordinatorTask):
    """One step of the coordinator: closes a stage and decides what is not needed any more.

    That is all later rounds when training is over, and the later steps of sites that were left out.
    """

    def __init__(self, *, step: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.step = step

    def work(self, context: Any) -> list[dict[str, str | int]]:
        """Execute the step; returns references to what it published."""
        run = self.project.context(self.run(context))
        step = _bound(plan_of(run.params, run.contract).step(self.step), run)
        # Again at every stage: a run that failed and is cleared takes up its place once more.
        acquire_lock(run)
        refs = [ref.to_dict() for ref in execute(step, run)]
        if step.name == "final/conclude":
            lock.release(run.workspace, run.federation, run.run)
            return refs
        missing, over = _outcome(step, run)
        for site, code in missing.items():
            log.warning("%s is left out from round %d on: %s", site, max(step.round, 1), code)
        if over:
            log.info("Rounds end after round %d: %s", step.round, over)
        skipped = [
            task_id(later)
            for later in (self.later() if missing or over else ())
            if later.place in missing or (over and later.name.startswith("round-"))
        ]
        if skipped:
            context["ti"].xcom_push("return_value", refs)
            raise DownstreamTasksSkipped(tasks=skipped)
        return refs


def _outcome(step: Step, run: RunContext) -> tuple[dict[str, str], str | None]:
    """Sites left out by a stage, with the reason's code, and why rounds end (or None)."""
    if step.round == 0:
        present = decode(run.store.get(run.key(keys.model(0))), kind="model").meta["parents"]
        members = run.params.federation.members
        return {site: "protocol.missing" for site in members if site not in present}, None
    found = record(run, step.round) or {}
    last = step.round >= run.params.model.rounds
    return found.get("missing", {}), found.get("stop") or ("it was the last" if last else None)


class TrackRun(ProjectTask):
    """Mirror the run into MLflow while it goes on, beside the rounds and never in their way."""

    def work(self, context: Any) -> str | None:
        """Follow the run to its end."""
        run = self.project.context(self.run(context))
        _tracked(run)
        os.nice(10)  # rounds come first
        from pipelines.coordinator import tracking

        deadline = float(self.project.params.federation.deadline_seconds) * (
            run.params.model.rounds + 2
        )
        finished = tracking.follow(
            run,
            deadline,
            over=lambda: lock.holder(run.workspace, run.federation) != run.run,
            say=log.warning,
        )
        if not finished:
            raise AirflowSkipException(
                "MLflow did not see the end of the run; `register` catches up."
            )
        return tracking.sync(run).run_id


class Report(ProjectTask):
    """The model as a file; for recipes, each site alone and pooled rows to compare with."""

    def work(self, context: Any) -> dict[str, str]:
        """Write the files; returns the model's digest."""
        from pipelines.conclusion import report
        from pipelines.coordinator.open_round import load_json

        run = self.project.context(self.run(context))
        result = load_json(run, keys.RESULT) or {}
        report(run, result, say=log.info)
        return {"run": run.run, "model": result["model"], "model_digest": result["model_digest"]}


class RegisterModel(ProjectTask):
    """Register the final model, once MLflow has the whole run."""

    def work(self, context: Any) -> dict[str, Any]:
        """Returns name, version and aliases."""
        from pipelines.conclusion import register

        run = self.project.context(self.run(context))
        _tracked(run)
        return register(run) or {}


def _tracked(run: RunContext) -> None:
    if not run.params.tracking.enabled:
        raise AirflowSkipException("tracking.enabled is off for this run.")
