"""The guard as an Airflow plugin: its face to Airflow's database, keys and plugin manager.

``FOLKMOOT_GUARD`` names the file with the guard's settings (``write_settings``) in the API server that
sites reach.  In any other API server everything that is meant for sites is closed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from folkmoot.exchange import ExchangeStore
from folkmoot.identity import load_key
from pipelines.guard.asgi import Closed
from pipelines.guard.exchange import exchange_app
from pipelines.guard.join import Invitations
from pipelines.guard.limits import Limits
from pipelines.guard.metrics import Metered, Metrics, operator_token, serve
from pipelines.guard.request import Job, Task
from pipelines.guard.settings import NAME, GuardSettings
from pipelines.guard.sites import Sites

__all__ = ["DatabaseJobs", "FolkmootGuard", "only_the_guard"]


def only_the_guard(claims: dict[str, Any], context: Any) -> dict[str, bool]:
    """``[edge] jwt_verifier``: the edge API takes what the guard has checked, and nothing else."""
    return {"authorized": claims.get("sub", "").startswith("site-")}


class DatabaseJobs:
    """Airflow's database and keys, asked on behalf of the guard.

    What is asked of a task instance never changes (a new try has a new id), so that it is kept.
    """

    #: Seconds in which a worker begins a job that it took, and between two looks for those it did not.
    BEGUN, LOOK = 60.0, 15.0

    def __init__(self) -> None:
        from airflow.api_fastapi.execution_api.app import _jwt_validator

        self._validator = _jwt_validator()
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._subjects: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._looked: dict[str, float] = {}
        self._looks: set[asyncio.Task[None]] = set()
        # With the requests of `Limits.inside`, fewer than the pool has connections.
        self._asking = asyncio.Semaphore(4)

    async def subject(self, token: str) -> str | None:
        """Id of the task instance that the coordinator signed the token for."""
        known = self._subjects.get(token)
        if known is not None and known[1] > time.time():
            return known[0]
        try:
            claims = await self._validator.avalidated_claims(token)
        except Exception:  # whatever is wrong with it
            return None
        found = str(claims.get("sub", ""))
        _keep(self._subjects, token, (found, float(claims["exp"])))
        return found

    async def task(self, identity: str) -> Task | None:
        """The task instance of an id."""
        if identity not in self._tasks:
            async with self._asking:
                found = await asyncio.to_thread(self._task, identity)
            if found is None:
                return None
            _keep(self._tasks, identity, found)
        return self._tasks[identity]

    async def job(self, dag: str, task: str, run: str, attempt: int, index: int) -> Job | None:
        """The edge executor's job."""
        async with self._asking:
            return await asyncio.to_thread(self._job, dag, task, run, attempt, index)

    async def put_back(self, queue: str) -> None:
        """Queue jobs again whose worker was killed, or cut off, between taking and beginning them.

        Airflow gives such a job to nobody: its state is that of one which is about to begin.
        """
        now = time.monotonic()
        if now - self._looked.get(queue, float("-inf")) < self.LOOK:
            return
        self._looked[queue] = now
        # The worker that asks is not kept waiting for it: it asks again in a moment.
        look = asyncio.create_task(self._look(queue))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, queue: str) -> None:
        async with self._asking:
            await asyncio.to_thread(self._put_back, queue, self.BEGUN)

    @staticmethod
    def _put_back(queue: str, seconds: float) -> None:
        from datetime import timedelta

        from airflow.providers.edge3.models.edge_job import EdgeJobModel as Row
        from airflow.utils import timezone
        from airflow.utils.session import create_session
        from airflow.utils.state import TaskInstanceState as State
        from sqlalchemy import update

        left = (
            Row.queue == queue,
            Row.state == State.RESTARTING,
            Row.last_update < timezone.utcnow() - timedelta(seconds=seconds),
        )
        with create_session() as session:
            session.execute(update(Row).where(*left).values(state=State.QUEUED, edge_worker=None))

    @staticmethod
    def _task(identity: str) -> Task | None:
        from uuid import UUID

        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import select

        try:
            number = UUID(identity)
        except ValueError:
            return None
        row = (
            TaskInstance.dag_id,
            TaskInstance.run_id,
            TaskInstance.task_id,
            TaskInstance.queue,
        )
        with create_session() as session:
            found = session.execute(select(*row).where(TaskInstance.id == number)).one_or_none()
        return None if found is None else Task(found[0], found[1], found[2], str(found[3]))

    @staticmethod
    def _job(dag: str, task: str, run: str, attempt: int, index: int) -> Job | None:
        from airflow.providers.edge3.models.edge_job import EdgeJobModel as Row
        from airflow.utils.session import create_session
        from sqlalchemy import select

        query = select(Row.queue, Row.edge_worker, Row.task_instance_id).where(
            Row.dag_id == dag,
            Row.task_id == task,
            Row.run_id == run,
            Row.try_number == attempt,
            Row.map_index == index,
        )
        with create_session() as session:
            found = session.execute(query.limit(2)).all()
        # Two jobs of one try differ in an id that the path does not name: neither is trusted.
        return Job(str(found[0][0]), found[0][1], found[0][2]) if len(found) == 1 else None


def _keep(store: OrderedDict[str, Any], key: str, value: Any) -> None:
    store[key] = value
    while len(store) > 8192:
        store.popitem(last=False)


def _stamps(folder: Path) -> Callable[[str], str]:
    """Tokens for the edge API, each signed once and used for some seconds."""
    import jwt

    key = load_key(folder / "guard.key")
    made: dict[str, tuple[str, float]] = {}

    def stamp(site: str) -> str:
        now = time.time()
        token, until = made.get(site, ("", 0.0))
        if until < now:
            claims = {
                "iss": NAME,
                "aud": NAME,
                "sub": f"site-{site}",
                "iat": int(now),
                "nbf": int(now),
                "exp": int(now) + 30,
            }
            token = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": NAME})
            made[site] = (token, now + 10.0)
        return token

    return stamp


def _parts() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Apps and middlewares for this API server."""
    file = os.environ.get("FOLKMOOT_GUARD")
    if not file:
        return [], [{"name": NAME, "middleware": Closed}]
    settings = GuardSettings.load(Path(file))
    folder = Path(settings.folder)
    sites = Sites(folder / "sites.json")
    store = ExchangeStore(settings.exchange, dict(settings.exchange_options))
    inside = store.path("a/b")
    parts = folder / "uploads" if inside is None else inside.parents[1] / ".uploads"
    app = exchange_app(
        store,
        parts,
        Invitations(folder / "invitations.json", sites, settings.facts),
        settings.facts,
        settings.upload,
        settings.direct,
    )
    metrics = Metrics(folder / "refusals.json")
    if settings.metrics_port:
        local = settings.metrics_listen in {"127.0.0.1", "::1", "localhost"}
        token = None if local else operator_token(folder)
        serve(metrics, settings.metrics_listen, settings.metrics_port, token)
    guard = {
        "sites": sites,
        "jobs": DatabaseJobs(),
        "stamp": _stamps(folder),
        "limits": Limits(settings.rate, settings.burst, settings.upload),
    }
    return (
        [{"app": app, "url_prefix": "/exchange", "name": "Folkmoot exchange store"}],
        [{"name": NAME, "middleware": Metered, "kwargs": {**guard, "metrics": metrics}}],
    )


class FolkmootGuard(AirflowPlugin):  # type: ignore[misc]
    """What Airflow's plugin manager reads."""

    name = "folkmoot_guard"
    fastapi_apps, fastapi_root_middlewares = _parts()
