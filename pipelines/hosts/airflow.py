"""The Airflow host: a plan becomes a DAG.

::

    open ─┬─▶ prepare (a group per site: version → validate → anonymise → encode) ─▶ initialise
          └─▶ track                                                                      │
    ┌────────────────────────────────────────────────────────────────────────────────────┘
    └▶ round-001 (train per site → aggregate) ─▶ … ─▶ evaluate ─▶ conclude ─▶ report ─▶ register

With a privacy model, ``anonymise`` is a group of its own: recode → verify → report.

Site tasks have ``queue="site-<name>"`` and aggregates run when all sites are done, well or not; the
quorum is kept by the step itself.  Rounds are unrolled to the most that ``params.yaml`` allows: an
aggregate that ends training marks all later rounds skipped, and the tasks of a site it went on
without.  The DAG is data from the plan; ``airflow_builder`` makes its tasks, and what these do is in
``airflow_tasks``.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    AssetAny,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    Param,
    TaskGroup,
    TriggerRule,
    get_parsing_context,
)

from folkmoot.errors import ConfigError
from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, RoundPlan, Step
from pipelines.hosts import airflow_docs as docs
from pipelines.hosts.airflow_builder import Builder, deadline
from pipelines.hosts.airflow_data import AnnounceData, RefreshSite, alias, site_asset
from pipelines.hosts.airflow_form import fields
from pipelines.hosts.airflow_project import Project, at_site, load_project, task_id
from pipelines.hosts.airflow_tasks import SiteTask
from pipelines.plans import plan_of

__all__ = ["federated_dag", "refresh_dag"]

#: Only errors that may pass are retried; all others fail at once (``airflow_tasks``).
DEFAULTS = {
    "owner": COORDINATOR,
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=2),
}


def federated_dag(kind: str) -> DAG | None:
    """The DAG ``federated_<kind>`` of the project's ``params.yaml``.

    Parameters
    ----------
    kind : str
        ``linear``, ``trees`` or ``statistics``.

    Returns
    -------
    DAG or None
        None where ``params.yaml`` is meant for another kind and does not fit this one (such as
        differential privacy with trees), or asks for no statistics.

    Raises
    ------
    ConfigError
        For faulty settings; Airflow shows it as the file's import error.
    """
    if _other(f"federated_{kind}"):
        return None
    if site := os.environ.get("FOLKMOOT_SITE"):
        return _at_site(kind, site)
    if kind == "statistics" and not load_project().params.statistics.ask:
        return None
    try:
        project = load_project(kind)
        contract = project.contract()
        plan = plan_of(project.params, contract)
    except ConfigError:
        if kind in {"statistics", load_project().params.model.kind}:
            raise
        return None
    step = {task_id(step): step for step in plan}.get(get_parsing_context().task_id or "")
    if step is not None:
        return _alone(project, plan, step)
    form = fields(project.params)
    with DAG(
        dag_id=f"federated_{kind}",
        dag_display_name=docs.DISPLAY[kind],
        description=docs.DESCRIPTION[kind],
        doc_md=docs.dag(project.params, contract, plan),
        # Each statistic is a release: they are asked for by hand.
        schedule=_schedule(project.params) if project.scheduled and kind != "statistics" else None,
        catchup=False,
        max_active_runs=1,
        tags={"folkmoot", "federated", kind, project.params.federation.name},
        default_args=DEFAULTS,
        **_alerts(),
    ) as dag:
        Builder(project, plan).build({name: key for name, (key, _) in form.items()})
    # Last: Airflow copies a DAG's form into every task made after it, and serialises each copy.
    dag.params = _params(form)
    return dag


def _alerts() -> dict[str, Any]:
    """Deadline and notifiers of a coordinator that has some (``server.toml``)."""
    if not os.environ.get("FOLKMOOT_NOTIFY"):
        return {}
    from pipelines.hosts.airflow_notify import alerts

    return alerts()


def _alone(project: Project, plan: RoundPlan, step: Step) -> DAG:
    """A DAG of one task, for the process that runs it.

    Building a hundred other tasks and a form would cost every task of every round (Airflow's manual:
    optimizing Dag parsing delays during execution).
    """
    *groups, _ = task_id(step).split(".")
    with (
        DAG(
            dag_id=f"federated_{plan.kind}",
            params={"run": None},
            default_args=DEFAULTS,
        ) as dag,
        contextlib.ExitStack() as stack,
    ):
        for group in groups:
            stack.enter_context(TaskGroup(group))
        Builder(project, plan).task(step)
    return dag


def _at_site(kind: str, site: str) -> DAG | None:
    """The DAG as a site's own worker reads it: the one task that it is to run.

    Which step that is comes from the run's own plan, which the task reads and the site's settings
    judge; a site knows neither the coordinator's params nor what other tasks there are.
    """
    name = get_parsing_context().task_id
    if name is None:
        return None
    *groups, own = name.split(".")
    with (
        DAG(dag_id=f"federated_{kind}", params={"run": None}, default_args=DEFAULTS) as dag,
        contextlib.ExitStack() as stack,
    ):
        for group in groups:
            stack.enter_context(TaskGroup(group))
        # A site need not ask for statistics itself to take part in some.
        project = load_project(None if kind == "statistics" else kind)
        SiteTask(
            task_id=own,
            step="",
            site=site,
            project=project,
            owner=site,
            **at_site(site),
        )
    return dag


def refresh_dag() -> DAG | None:
    """The DAG ``refresh_site_data``: finds new dataset versions and announces them as Assets."""
    if _other("refresh_site_data"):
        return None
    project = load_project()
    params = project.params
    own = os.environ.get("FOLKMOOT_SITE")
    if own:
        with DAG(dag_id="refresh_site_data", default_args=DEFAULTS) as dag:
            RefreshSite(task_id=f"refresh-{own}", site=own, project=project, **at_site(own))
        return dag
    with DAG(
        dag_id="refresh_site_data",
        dag_display_name="Refresh site data",
        description="Record new dataset versions at the sites; new ones start a training.",
        doc_md=docs.REFRESH,
        schedule=_cron(params.schedule.refresh_cron) if project.scheduled else None,
        catchup=False,
        max_active_runs=1,
        tags={"folkmoot", "data", params.federation.name},
        default_args=DEFAULTS,
    ) as dag:
        announce = AnnounceData(
            task_id="announce",
            project=project,
            task_display_name="Announce new dataset versions",
            doc_md=docs.ANNOUNCE,
            trigger_rule=TriggerRule.ALL_DONE,
            outlets=[alias(params)],
            inlets=[site_asset(params, site) for site in params.federation.members],
        )
        for site in params.federation.members:
            refresh = RefreshSite(
                task_id=f"refresh-{site}",
                site=site,
                project=project,
                task_display_name=f"Refresh {site}",
                doc_md=docs.refresh(site),
                owner=site,
                **at_site(site),
                execution_timeout=deadline(params),
            )
            refresh >> announce
    return dag


def _other(dag: str) -> bool:
    """Whether a task's process reads this file for another DAG's sake."""
    wanted = get_parsing_context().dag_id
    return wanted is not None and wanted != dag


def _cron(expression: str | None) -> CronTriggerTimetable | None:
    """By the clock, from the next time on: a new Airflow does not make up for the past."""
    if expression is None:
        return None
    # Without a start date; five minutes, so that a time that strikes while files are read counts.
    return CronTriggerTimetable(expression, timezone="UTC", run_immediately=timedelta(minutes=5))


def _schedule(params: Params) -> Any:
    """By the clock, by new data, by both, or by hand only."""
    clock = _cron(params.schedule.cron)
    if not params.schedule.on_new_data:
        return clock
    assets = AssetAny(*(site_asset(params, site) for site in params.federation.members))
    return assets if clock is None else AssetOrTimeSchedule(timetable=clock, assets=assets)


def _params(form: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Param]:
    params = {name: Param(**arguments) for name, (_, arguments) in form.items()}
    params["run"] = Param(
        default=None,
        type=["string", "null"],
        pattern="^[a-z0-9][a-z0-9._-]{0,127}$",
        title="Run",
        section="Resume",
        description_md="Name of an earlier run to resume; a new run when empty.",
    )
    return params
