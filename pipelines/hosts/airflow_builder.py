"""The tasks of a plan, inside an open DAG: groups, what waits for what, and what follows the result.

Which DAG they are put in, and when it runs, is the business of :mod:`pipelines.hosts.airflow`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, TaskGroup, TriggerRule

from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, RoundPlan, Step
from pipelines.hosts import airflow_docs as docs
from pipelines.hosts.airflow_project import ANONYMISE, Project, at_site, task_id
from pipelines.hosts.airflow_tasks import (
    OpenRun,
    RegisterModel,
    Report,
    SiteTask,
    StageTask,
    TrackRun,
)

__all__ = ["Builder", "deadline"]


def deadline(params: Params) -> timedelta:
    """How long a site's task may take."""
    return timedelta(seconds=params.federation.deadline_seconds)


class Builder:
    """Tasks of a plan, inside an open DAG."""

    def __init__(self, project: Project, plan: RoundPlan) -> None:
        self.project = project
        self.plan = plan
        self.tasks: dict[str, Any] = {}

    def build(self, form: dict[str, str]) -> None:
        """All tasks, in the plan's order; ``form`` maps the form's fields to keys of the params."""
        start = OpenRun(
            task_id="open",
            project=self.project,
            form=form,
            rounds=self.plan.rounds,
            task_display_name="Open the run",
            doc_md=docs.OPEN,
            # One run at a time in a federation: both DAGs may start at the same minute.
            retries=240,
            retry_delay=timedelta(seconds=15),
            retry_exponential_backoff=0,
        )
        agreed = bool(self.plan.stage("agree/"))
        waits = self._consents(start)
        if agreed:
            with TaskGroup("agree", tooltip=docs.AGREE):
                self._sites("agree", docs.AGREE, waits)
                self._add(s for s in self.plan.stage("agree/") if s.place == COORDINATOR)
        with TaskGroup("prepare", tooltip=docs.PREPARE):
            self._sites("prepare", docs.PREPARE, None if agreed else waits)
        if self.plan.stage("setup/"):
            with TaskGroup("setup", tooltip=docs.SETUP):
                self._add(self.plan.stage("setup/"))
        *before, initialise = self.plan.stage("round-000/")
        if before:
            with TaskGroup("round-000", tooltip=docs.STATISTICS):
                self._add(before)
        self._add([initialise])
        for round in range(1, self.plan.rounds + 1):
            name = f"round-{round:03d}"
            with TaskGroup(name, tooltip=f"Round {round} of at most {self.plan.rounds}"):
                self._add(self.plan.stage(f"{name}/"))
        *evaluation, _ = self.plan.stage("final/")
        if evaluation:
            with TaskGroup("evaluate", tooltip=docs.EVALUATE):
                self._add(evaluation)
        conclude = self._add([self.plan.step("final/conclude")])
        for each in self.plan:
            for first in self._before(each):
                self.tasks[first] >> self.tasks[each.name]
        self._close(start, conclude)

    def _consents(self, start: OpenRun) -> dict[str, Any]:
        """What each site's first step waits for: the run, and a steward's consent where asked for."""
        if not self.project.params.approval.consent:
            return dict.fromkeys(self.plan.sites, start)
        from pipelines.hosts.airflow_approval import AskConsent  # its operators load a provider

        with TaskGroup("consent", tooltip=docs.CONSENT):
            asked = {
                site: AskConsent(
                    task_id=site,
                    site=site,
                    project=self.project,
                    task_display_name=f"Consent of {site}",
                    doc_md=docs.CONSENT,
                    owner=site,
                )
                for site in self.plan.sites
            }
        start >> list(asked.values())
        return asked

    def _sites(self, stage: str, tooltip: str, first: dict[str, Any] | None) -> None:
        """A group per site with its steps of a stage, behind what ``first`` names where given."""
        for site in self.plan.sites:
            with TaskGroup(site, tooltip=tooltip):
                steps = [s for s in self.plan.stage(f"{stage}/") if s.place == site]
                for inner, some in itertools.groupby(steps, key=_anonymises):
                    with contextlib.ExitStack() as stack:
                        if inner:
                            group = TaskGroup(f"anonymise-{site}", tooltip=docs.ANONYMISE)
                            stack.enter_context(group)
                        self._add(some)
            if first is not None:
                first[site] >> self.tasks[steps[0].name]

    def _add(self, steps: Iterable[Step]) -> Any:
        """Tasks of steps; returns the last."""
        task = None
        for step in steps:
            task = self.tasks[step.name] = self.task(step)
        return task

    def task(self, step: Step) -> SiteTask | StageTask:
        """The task of a step."""
        common: dict[str, Any] = {
            "task_id": task_id(step).rsplit(".", 1)[-1],
            "step": step.name,
            "project": self.project,
            "task_display_name": docs.title(step),
            "doc_md": docs.step(step),
            "trigger_rule": _rule(step),
        }
        if step.place == COORDINATOR:
            return StageTask(**common)
        return SiteTask(
            **common,
            owner=step.place,
            **at_site(step.place),
            execution_timeout=deadline(self.project.params),
        )

    def _before(self, step: Step) -> tuple[str, ...]:
        """The steps a task waits for: fewer than ``after``, since each stage follows the last."""
        if step.name.startswith("final/evaluate/"):
            # A stage that could not close stops the evaluation as well.
            return tuple(s.name for s in self.plan if s.round and s.name.endswith("/aggregate"))
        if step.place == COORDINATOR or step.name.startswith(("agree/", "prepare/")):
            return step.after
        return step.after[:1]

    def _close(self, start: OpenRun, conclude: Any) -> None:
        """What follows the result: report, tracking, registration."""
        params = self.project.params
        report = Report(
            task_id="report",
            project=self.project,
            task_display_name="Report",
            doc_md=docs.REPORT,
        )
        conclude >> report
        if not params.tracking.enabled or params.statistics.active:
            return
        track = TrackRun(
            task_id="track",
            project=self.project,
            task_display_name="Track in MLflow",
            doc_md=docs.TRACK,
            retries=0,
        )
        start >> track
        if params.tracking.register_model:
            register = RegisterModel(
                task_id="register",
                project=self.project,
                task_display_name="Register the model",
                doc_md=docs.REGISTER,
                outlets=[
                    Asset(f"{params.federation.name}-{params.model.kind}-model", group="model")
                ],
                retries=4,
                retry_delay=timedelta(seconds=15),
            )
            report >> register
            if params.approval.champion:
                from pipelines.hosts.airflow_approval import ApproveChampion

                register >> ApproveChampion(
                    task_id="approve",
                    project=self.project,
                    task_display_name="Approve the champion",
                    doc_md=docs.APPROVE,
                )


def _anonymises(step: Step) -> bool:
    stage, task, *_ = step.name.split("/")
    return stage == "prepare" and task in ANONYMISE


def _rule(step: Step) -> TriggerRule:
    """Coordinators wait for all sites, well or not; evaluation passes over skipped rounds."""
    if step.place == COORDINATOR:
        return TriggerRule.ALL_DONE
    if step.name.startswith("final/"):
        return TriggerRule.NONE_FAILED
    return TriggerRule.ALL_SUCCESS
