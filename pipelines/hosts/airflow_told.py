"""How a site's failed task reaches Airflow's pages: as one line of code, sentence and remedy.

The task logs it (:func:`tell`); the site's worker finds it in the task's log, which stays at the
site, and sends the line alone (:class:`Teller`).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from folkmoot.errors import FolkmootError, RoundError
from folkmoot.told import LOGGER, is_told, sentence, told_line, told_of

__all__ = ["Teller", "tell"]

#: The end of a task's log in which the line is looked for, in bytes.
_LOOK = 256 * 1024
#: Seconds for sending a line; the state of the task waits for it.
_PATIENCE = 30.0


def tell(queue: str | None, error: FolkmootError | str) -> None:
    """Log a site task's error as the coordinator may read it; nothing for the coordinator's own.

    Parameters
    ----------
    queue : str or None
        The task's; ``site-<name>`` for a site's.
    error : FolkmootError or str
        What ended the task, or the sentence of ``round.site-failed``.
    """
    if queue is None or not queue.startswith("site-"):
        return
    if isinstance(error, str):
        error = RoundError("round.site-failed", error, "Look at the task's log at the site.")
    home = os.environ.get("FOLKMOOT_SITE_HOME", "")
    logging.getLogger(LOGGER).error("%s", sentence(error, queue.removeprefix("site-"), home))


class Teller:
    """Sends the line of a task that failed.

    Parameters
    ----------
    push : coroutine function
        Airflow's own way of sending a piece of a log.
    site : str
        The site.
    logs : callable
        Whether the steward lets all of a log go (``permissions.logs``).
    """

    def __init__(
        self, push: Callable[..., Awaitable[None]], site: str, logs: Callable[[], bool]
    ) -> None:
        self._push, self._site, self._logs = push, site, logs

    def worker(self, kind: Any) -> Any:
        """A class of worker, of Airflow's ``EdgeWorker`` or a subclass, that tells of failed tasks."""
        teller = self

        class Worker(kind):  # type: ignore[misc]
            async def _push_logs_in_chunks(self, job: Any) -> None:
                await super()._push_logs_in_chunks(job)
                if job.is_running or getattr(job, "told", False):
                    return
                job.told = True
                line = told_of(_end_of(Path(job.logfile)))
                if line is not None:
                    own = job.edge_job
                    await teller._send(line, task=own.key, task_instance_id=own.task_instance_id)

        return Worker

    async def kept(self, log_chunk_data: str = "", **named: Any) -> None:
        """In place of Airflow's own: what its worker writes into a task's log holds tracebacks.

        Of a task whose process ended by itself it is told that it did; a notice that the worker is
        about to stop is nothing that a task failed of.
        """
        if self._logs():
            await self._push(log_chunk_data=log_chunk_data, **named)
        if log_chunk_data.startswith("Error executing job"):
            error = RoundError(
                "round.site-failed",
                "The task's process ended before it could say why.",
                "Look at the worker's output and the task's log at the site.",
            )
            named.pop("log_chunk_time", None)
            await self._send(told_line(sentence(error, self._site)), **named)

    async def _send(self, line: str, **named: Any) -> None:
        if not is_told(line, self._site):
            return
        now = datetime.datetime.now(datetime.UTC)
        # The task's state is what counts: that it failed is told whatever becomes of the line.
        with contextlib.suppress(Exception):
            push = self._push(log_chunk_time=now, log_chunk_data=line, **named)
            await asyncio.wait_for(push, _PATIENCE)


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOOK))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
