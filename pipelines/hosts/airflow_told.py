"""How a site's failed task reaches Airflow's pages: as one line of code, sentence and remedy.

The task logs it (``tell``); the site's worker finds it in the task's log, which stays at the
site, and sends the line alone (``telling``).
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from folkmoot.errors import FolkmootError, RoundError
from folkmoot.told import LOGGER, told_line, told_of

__all__ = ["silent_end", "tell", "telling"]

#: The end of a task's log in which the line is looked for, in bytes.
_LOOK = 256 * 1024


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
    logging.getLogger(LOGGER).error("%s", _text(error, queue.removeprefix("site-")))


def telling(kind: Any, push: Callable[..., Awaitable[None]]) -> Any:
    """A class of worker that sends the line of a task that failed.

    Parameters
    ----------
    kind : type
        Airflow's ``EdgeWorker`` or a subclass.
    push : coroutine function
        Airflow's own way of sending a piece of a log.
    """

    class Worker(kind):  # type: ignore[misc]
        async def _push_logs_in_chunks(self, job: Any) -> None:
            await super()._push_logs_in_chunks(job)
            if job.is_running or getattr(job, "told", False):
                return
            job.told = True
            line = told_of(_end_of(Path(job.logfile)))
            if line is not None:
                await _send(push, job.edge_job.key, job.edge_job.task_instance_id, line)

    return Worker


async def silent_end(
    push: Callable[..., Awaitable[None]], site: str, task: Any, identity: Any
) -> None:
    """Tell of a task whose process ended without a word; the guard takes one line of each try.

    Parameters
    ----------
    push : coroutine function
        As for :func:`telling`.
    site : str
        The site.
    task, identity : object
        The task and its instance's id, as Airflow's worker names them.
    """
    error = RoundError(
        "round.site-failed",
        "The task's process ended before it could say why.",
        "Look at the worker's output and the task's log at the site.",
    )
    await _send(push, task, identity, told_line(_text(error, site)))


def _text(error: FolkmootError, site: str) -> str:
    said = error.crossing()
    return f"{said['code']} [{site}]: {said['message']} Remedy: {said['remedy']}"


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOOK))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


async def _send(push: Callable[..., Awaitable[None]], task: Any, identity: Any, line: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    # The task's state is what counts: that it failed is told whatever becomes of the line.
    with contextlib.suppress(Exception):
        await push(task=task, log_chunk_time=now, log_chunk_data=line, task_instance_id=identity)
