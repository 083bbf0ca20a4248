"""What keeps a site's worker from adding seconds to every round.

Airflow's own edge worker imports what a task needs in each task's process, holds a task that is over for
up to a second, and asks for the next one once a second.  Here the imports are made once, a process
that ends is seen at once, and while a run goes on the worker asks more often.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["let_go", "paced", "pause", "preload"]

#: What a task's process would import, in seconds, each time anew.
PRELOAD = (
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.executors.base_executor",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.timetables.assets",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.timeout",
    "cryptography.hazmat.backends.openssl.backend",
    "jinja2.ext",
    "folkmoot.exchange_https",
    "pipelines.hosts.airflow",
    "site_tasks.border",
    "site_tasks.evaluate",
    "site_tasks.prepare",
    "site_tasks.secure.conceal",
    "site_tasks.secure.tasks",
    "site_tasks.train_linear",
)
#: Seconds after a job in which the next one is soon asked for.
BUSY = 30.0


def preload() -> None:
    """Import what tasks need, before they are forked; they share its memory."""
    for module in PRELOAD:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the tasks' collectors write into every page


def pause(sites: int) -> float:
    """Seconds between two questions while a run goes on: all sites together ask 50 times a second."""
    return min(1.0, max(0.2, sites / 50))


def paced(kind: Any, home: SiteHome) -> Any:
    """A class of worker that asks for the next job sooner while a run goes on.

    Parameters
    ----------
    kind : type
        Airflow's ``EdgeWorker`` or a subclass.
    home : SiteHome
        The site; how many others there are, its federation says.
    """
    facts = json.loads((home.private / "federation.json").read_text(encoding="utf-8"))
    soon = pause(len(facts["sites"]))

    class Worker(kind):  # type: ignore[misc]
        worked = float("-inf")

        async def interruptible_sleep(self) -> None:
            """Sleep until it is time to ask, a job ends, or the worker is told to stop."""
            drain, jobs, now = self.drain, len(self.jobs), time.monotonic()
            if jobs:
                self.worked = now
            seconds = float(self.job_poll_interval)
            if not jobs and now - self.worked < BUSY:
                seconds = min(seconds, soon)
            while time.monotonic() - now < seconds:
                await asyncio.sleep(0.05)
                if self.drain != drain or len(self.jobs) < jobs:
                    return

    return Worker


def let_go() -> None:
    """See that a task's process ends, once it has closed all lines to its supervisor.

    Airflow looks when the lines close, mostly a little too early, and then a second later.
    """
    from airflow.sdk.execution_time.supervisor import ActivitySubprocess

    serve = ActivitySubprocess._service_subprocess

    def soon(self: Any, max_wait_time: float, *arguments: Any, **named: Any) -> Any:
        wait = max_wait_time if self._open_sockets else min(max_wait_time, 0.02)
        return serve(self, wait, *arguments, **named)

    ActivitySubprocess._service_subprocess = soon
