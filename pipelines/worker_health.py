"""The doctor's look at sites' workers, through what Airflow's database knows of them."""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import folkmoot
from folkmoot.findings import Finding
from folkmoot.params import Params
from folkmoot.versions import together
from pipelines.hosts.airflow_coordinator import Coordinator

__all__ = ["check_workers"]

#: Seconds of silence after which a worker is taken to be away.
_SILENT = 120


def check_workers(params: Params, coordinator: Coordinator) -> Finding | str:
    """Workers' silence and versions, and jobs that wait in a queue that nobody serves."""
    from sqlalchemy import create_engine, exc, text

    what = "workers"
    file = coordinator.home / "airflow.db"
    url = coordinator.settings.database_url("database")
    if url is None and not file.exists():
        return Finding(what, "skipped", "Airflow has not run yet")
    engine = create_engine(url or f"sqlite:///{file}")
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                text("select worker_name, state, last_update, queues, sysinfo from edge_worker")
            ).all()
            waiting = connection.execute(
                text("select queue, count(*) from edge_job where state = 'queued' group by queue")
            ).all()
    except exc.SQLAlchemyError:
        return Finding(what, "skipped", "Airflow's database has no workers yet")
    finally:
        engine.dispose()
    faults: list[str] = []
    apart: list[str] = []
    beside: list[str] = []
    queues = {f"site-{site}" for site in params.federation.members}
    served: set[str] = set()
    now = datetime.datetime.now(datetime.UTC)
    for name, state, seen, own, info in rows:
        silent = (now - _time(seen)).total_seconds()
        stopped = str(state).lower().startswith(("offline", "terminating"))
        if stopped:
            faults.append(f"{name} was stopped {_duration(silent)} ago")
        elif silent > _SILENT:
            faults.append(f"{name} has been silent for {_duration(silent)}")
        elif "maintenance" not in str(state).lower():
            served |= set(_read(own) or ())
        if "maintenance" in str(state).lower():
            faults.append(f"{name} is in maintenance")
        for told, fits in _versions(str(name), _read(info) or {}):
            (beside if fits else apart).append(told)
    for queue, number in waiting:
        if queue not in queues:
            faults.append(f"{number} tasks wait in queue {queue}, which is no site's")
        elif queue not in served:
            faults.append(f"{number} tasks wait in queue {queue}, which no worker serves now")
    if apart:
        return Finding(
            what,
            "fault",
            "; ".join([*apart, *faults])
            + ": versions work together when they are at most one minor "
            "version apart.",
            "Upgrade the older side, one minor version after another.",
        )
    if faults:
        return Finding(
            what,
            "warning",
            "; ".join(faults) + ".",
            "Start the worker (folkmoot site up), end its maintenance, or correct "
            "federation.sites; folkmoot doctor --site NAME at the site says more.",
        )
    more = "".join(f"; {each}, which work together" for each in beside)
    return f"{len(rows)} known, {len(served)} queues served{more}"


def _versions(worker: str, info: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """What differs from this side, and whether the two work together all the same."""
    own = {
        "folkmoot_version": ("folkmoot", folkmoot.__version__),
        "airflow_version": ("apache-airflow-core", None),
        "edge_provider_version": ("apache-airflow-providers-edge3", None),
    }
    for key, (package, known) in own.items():
        theirs, ours = info.get(key), known or importlib.metadata.version(package)
        if theirs is not None and theirs != ours:
            told = str(theirs)[:40]
            yield f"{worker} runs {package} {told}, here it is {ours}", together(told, ours)


def _read(value: Any) -> Any:
    """A column's value: JSON, or a list as Python writes it (Airflow's way with queues)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return None


def _time(value: Any) -> datetime.datetime:
    made = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
    if made is None:
        return datetime.datetime.fromtimestamp(0, datetime.UTC)
    found: datetime.datetime = made.replace(tzinfo=made.tzinfo or datetime.UTC)
    return found


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds > 7200 else f"{seconds / 60:.0f} min"
