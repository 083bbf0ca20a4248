"""A site's worker: ``python -m pipelines.hosts.airflow_worker`` in the environment of its setup.

Airflow's own edge worker (started as :mod:`pipelines.hosts.airflow_worker_setup` says), with four
changes.  It signs its requests with the site's key, so that it holds no secret of the coordinator.
It takes jobs of its own queue and of the project's DAG files alone, whatever it is sent.  What its
tasks log stays here, but for the line that says why one failed.  Killed in maintenance mode, it comes
back in maintenance mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folkmoot
from folkmoot.errors import FolkmootError, TransientError
from folkmoot.identity.visit import Visit
from pipelines.hosts.airflow_pace import let_go, paced, preload
from pipelines.hosts.airflow_told import Teller
from pipelines.hosts.airflow_worker_setup import approved
from site_tasks.home import SiteHome
from site_tasks.join import hello
from site_tasks.maintenance import maintain, maintenance

__all__ = ["alone", "main"]

DAGS: tuple[str, ...] = (
    "federated_linear",
    "federated_trees",
    "federated_statistics",
    "refresh_site_data",
)


#: What the guard answers a site that it does not let in.
_REFUSED = frozenset({401, 403})
_METHOD: contextvars.ContextVar[str] = contextvars.ContextVar("method", default="")


class _Signer:
    """In place of Airflow's token maker, which needs the coordinator's secret."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def generate(self, extras: dict[str, Any]) -> str:
        """A token for the request that is about to be sent."""
        return self._visit.token(_METHOD.get(), f"/edge_worker/v1/{extras['method']}")


def fault(job: Any, site: str) -> str | None:
    """What is wrong with a job that the coordinator sent, or None."""
    from airflow.executors.workloads import ExecuteTask

    work = job.command
    if not isinstance(work, ExecuteTask):
        return "is no task"
    if work.ti.queue != f"site-{site}":
        return "belongs to another queue"
    if work.ti.dag_id not in DAGS or str(work.dag_rel_path) != f"{work.ti.dag_id}.py":
        return "is of an unknown DAG file"
    if (work.bundle_info.name, work.bundle_info.version) != ("dags-folder", None):
        return "is of an unknown DAG bundle"
    log = Path(work.log_path or "")
    return (
        "has a log file outside the log folder" if log.is_absolute() or ".." in log.parts else None
    )


def main() -> int:
    """Run the worker until it is told to stop."""
    visit = Visit.load()
    home = SiteHome(Path(os.environ["FOLKMOOT_SITE_HOME"]))
    from aiohttp import ClientResponseError
    from airflow.providers.edge3.cli import api_client, worker

    send, fetch, push = api_client._make_generic_request, worker.jobs_fetch, worker.logs_push

    async def signed(method: str, *arguments: Any, **named: Any) -> Any:
        _METHOD.set(method)
        return await send(method, *arguments, **named)

    asking = asyncio.Lock()

    async def checked(*arguments: Any, **named: Any) -> Any:
        if asking.locked():  # asked again before the answer, it could get one job too many
            return None
        async with asking:
            try:
                job = await fetch(*arguments, **named)
            except ClientResponseError as error:
                if error.status not in _REFUSED:
                    raise
                return None  # the next heart-beat says why, and ends the worker
        if job is None:
            return None
        approved(SiteHome(home.root))
        wrong = fault(job, visit.site)
        if wrong is not None:
            print(f"A job was refused: it {wrong}.", file=sys.stderr, flush=True)
            return None
        return job

    teller = Teller(push, visit.site, lambda: home.settings.permissions.logs)
    signer = _Signer(visit)
    api_client.jwt_generator = lambda: signer
    api_client._make_generic_request = signed
    worker.jobs_fetch, worker.logs_push = checked, teller.kept
    preload()
    let_go()
    from airflow.configuration import conf

    running = paced(teller.worker(_worker_of(home)), home)(
        pid_file_path=str(Path(os.environ["AIRFLOW_HOME"]) / "worker.pid"),
        hostname=visit.site,
        queues=[f"site-{visit.site}"],
        concurrency=conf.getint("edge", "worker_concurrency"),
    )
    try:
        with alone(Path(os.environ["AIRFLOW_HOME"])) as killed:
            asyncio.run(_run(running, killed))
    except TransientError as error:
        raise SystemExit(f"{error.message} {error.remedy}") from None
    except ClientResponseError as error:
        if error.status not in _REFUSED:
            raise
        # It could not sign off: the next one takes its place as that of a worker that was killed.
        (Path(os.environ["AIRFLOW_HOME"]) / "worker.pid").touch()
        raise SystemExit(_why(visit)) from None
    return 0


def _why(visit: Visit) -> str:
    """Why the coordinator takes this worker's requests no more, as its doctor would say it."""
    try:
        hello(visit)
    except FolkmootError as error:
        return f"{error.message} {error.remedy}"
    return f"The coordinator refused this worker. folkmoot doctor --site {visit.site} says more."


async def facts() -> dict[str, str]:
    """What the worker tells of itself besides Airflow's own facts."""
    return {"folkmoot_version": folkmoot.__version__}


def _worker_of(home: SiteHome) -> Any:
    """Airflow's worker, whose maintenance mode is the site's record of it."""
    from airflow.providers.edge3.cli.worker import EdgeWorker

    class Worker(EdgeWorker):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.recorded = False
            self.look()

        def look(self) -> None:
            """Go by the record, which `folkmoot site maintenance` writes beside a worker that runs."""
            self.maintenance_comments = maintenance(home)
            self.maintenance_mode = self.recorded = self.maintenance_comments is not None

        def keep(self) -> None:
            """Write down what Airflow's own command or the coordinator changed."""
            if self.maintenance_mode != self.recorded:
                maintain(home, self.maintenance_mode, self.maintenance_comments)
                self.recorded = self.maintenance_mode

        async def heartbeat(self, new_maintenance_comments: str | None = None) -> bool:
            self.keep()
            self.look()
            changed = bool(await super().heartbeat(new_maintenance_comments))
            self.keep()
            return changed

    return Worker


async def _run(running: Any, killed: bool) -> None:
    """Take the place of a worker that was killed: Airflow keeps it for minutes otherwise."""
    if killed:
        try:
            await _sign_off(running)
        except Exception as error:  # registering says what is wrong
            print(f"Not signed off: {type(error).__name__}.", file=sys.stderr, flush=True)
    try:
        await running.start()
    except SystemExit as end:
        # Asked for while no worker ran: Airflow takes the request for a worker.
        if not str(end).count("'maintenance request'") + str(end).count("'maintenance exit'"):
            raise
        await _sign_off(running)
        await running.start()


async def _sign_off(running: Any) -> None:
    """Tell that the last worker is gone; what was asked of it meanwhile holds for this one."""
    from airflow.providers.edge3.cli import api_client
    from airflow.providers.edge3.models.edge_worker import EdgeWorkerState as State

    async def tell(state: Any) -> Any:
        told = await running._get_sysinfo()
        return await api_client.worker_set_state(running.hostname, state, 0, running.queues, told)

    answer = await tell(State.MAINTENANCE_MODE if running.maintenance_mode else State.OFFLINE)
    if answer.state == State.MAINTENANCE_REQUEST:
        running.maintenance_mode, running.maintenance_comments = True, answer.maintenance_comments
    elif answer.state == State.IDLE:  # MAINTENANCE_EXIT was asked for
        running.maintenance_mode = False
    running.keep()
    await tell(State.OFFLINE_MAINTENANCE if running.maintenance_mode else State.OFFLINE)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Hold the site's place for one worker; yields whether the last one was killed.

    The lock is the process's own: a task that outlives its worker does not hold it.

    Raises
    ------
    TransientError
        ``transient.locked`` where another worker of the site runs.
    """
    import fcntl

    with (folder / "worker.lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TransientError(
                "transient.locked",
                "Another worker of this site runs on this machine.",
                "Stop it, or leave it at that: a site needs one.",
            ) from None
        left = folder / "worker.pid"
        killed = left.exists()
        # Its number may be another process's by now, or this one's: Airflow would not start then.
        left.unlink(missing_ok=True)
        yield killed


if __name__ == "__main__":
    raise SystemExit(main())
