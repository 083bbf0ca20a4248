"""What Airflow's tasks do: open a run, execute a step of its plan, track it.

A task's process derives the run's name from its DAG run, reads ``run.json`` from the exchange store
and calls ``execute``; XCom gets references and digests only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time.timeout import timeout

from folkmoot.errors import ConfigError, ProtocolError, RoundError
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.wire import decode
from pipelines.coordinator import lock
from pipelines.hosts.airflow_project import ProjectTask, acquire_lock, task_id
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import (
    contract_for,
    ending,
    ensure_members,
    last_round,
    record,
    roster_for,
)
from pipelines.plans import plan_of

__all__ = ["OpenRun", "RegisterModel", "Report", "SiteTask", "StageTask", "TrackRun"]

log = logging.getLogger(__name__)


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
    """Fix params, contract and roster of a run under its name; wait while another run goes on."""

    patient = frozenset({"round.busy", "round.maintenance"})

    def __init__(self, *, form: Mapping[str, str], rounds: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.form = dict(form)
        self.rounds = rounds

    def work(self, context: Any) -> dict[str, str]:
        """Publish ``run.json``; returns name and digests."""
        from pipelines.coordinator.open_round import open_run

        run, workspace = self.run(context), self.project.workspace
        store = store_of(self.project.params, workspace)
        if store.find(f"{self.project.params.federation.name}/runs/{run}/{keys.RUN}"):
            log.info("Run %s was opened before: its params hold, not the form's", run)
            opened = self.project.context(run)
        else:
            params = self._params(context["params"])
            ensure_members(params, workspace, log.info)
            roster = roster_for(workspace)
            opened = open_run(params, contract_for(params), roster, run, store, workspace)
        plan = plan_of(opened.params, opened.contract)
        if plan.rounds > self.rounds:
            raise ConfigError(
                "config.invalid",
                f"Run {run} has {plan.rounds} rounds, the DAG has {self.rounds}.",
                f"Raise the rounds of {plan.kind} in params.yaml.",
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
    if last < run.params.rounds and not found.get("stop"):
        raise RoundError(
            "round.quorum",
            f"Run {run.run} ended after round {last} of {run.params.rounds}.",
            "See the task that failed; clear it once its cause is mended, and the run goes on.",
        )
    return ending(step, last)


class SiteTask(ProjectTask):
    """One step at a site, beside its data.

    A site's own worker knows the task's id alone: its ``step`` is empty, and ``site`` its name.
    """

    def __init__(self, *, step: str, site: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.step = step
        self.site = site

    def work(self, context: Any) -> list[dict[str, str | int]] | None:
        """Execute the step; returns references to what it published."""
        run = self.project.context(self.run(context))
        plan = plan_of(run.params, run.contract)
        if self.step:
            return self._refs(plan.step(self.step), run)
        own = {task_id(s): s for s in plan if s.place == self.site}
        if self.task_id not in own:
            raise ProtocolError(
                "protocol.mismatch",
                f"The plan of run {run.run} has no task {self.task_id} for this site.",
                "Compare the versions of folkmoot at coordinator and site.",
                site=self.site,
            )
        # A site's settings do not have the federation's deadline: it is the run's.
        self.deadline = run.params.federation.deadline_seconds
        with timeout(self.deadline):
            return self._refs(own[self.task_id], run)

    @staticmethod
    def _refs(step: Step, run: RunContext) -> list[dict[str, str | int]] | None:
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
        if step.round and step.name.endswith("/aggregate"):
            from pipelines.coordinator.finished_sums import clear

            clear(run, step.round, record(run, step.round) or {}, log.warning)
        missing, over = _outcome(step, run)
        for site, code in missing.items():
            log.warning("%s is left out from round %d on: %s", site, max(step.round, 1), code)
        if over:
            log.info("Rounds end after round %d: %s", step.round, over)
        # A site that did not contribute to a sum has no part in opening it, and in the next again.
        only = step.name.removesuffix("survivors") if step.name.endswith("/survivors") else ""
        skipped = [
            task_id(later)
            for later in (self.later() if missing or over else ())
            if (later.place in missing and later.name.startswith(only))
            or (over and later.name.startswith("round-"))
        ]
        if skipped:
            context["ti"].xcom_push("return_value", refs)
            raise DownstreamTasksSkipped(tasks=skipped)
        return refs


def _outcome(step: Step, run: RunContext) -> tuple[dict[str, str], str | None]:
    """Sites left out by a stage, with the reason's code, and why rounds end (or None)."""
    from pipelines.coordinator import secure as secure_steps

    if step.name == "agree/settle":
        schema = json.loads(run.store.get(run.key(keys.SCHEMA)))
        return dict(schema["missing"]), None
    between = secure_steps.left_out(step, run)
    if between is not None:
        return between, None
    if step.round == 0:
        present = decode(run.store.get(run.key(keys.model(0))), kind="model").meta["parents"]
        members = run.params.federation.members
        return {site: "protocol.missing" for site in members if site not in present}, None
    if not step.name.endswith("/aggregate"):
        return {}, None  # a turn within a round; who missed it has no part in its next by itself
    found = record(run, step.round) or {}
    last = step.round >= run.params.rounds
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
        from pipelines.conclusion import report, statistics_report
        from pipelines.coordinator.open_round import load_json

        run = self.project.context(self.run(context))
        result = load_json(run, keys.RESULT) or {}
        if result["kind"] == "statistics":
            statistics_report(run, result, say=log.info)
        else:
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
