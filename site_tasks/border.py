"""The guard around a site's step: nothing but a code and a safe sentence crosses it.

Tracebacks may hold rows (pandas prints them, locals show them), so they stay in the site's own
log, and the exception that travels on is a fresh one without cause, context or frames of the step.
"""

from __future__ import annotations

import errno
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from folkmoot.errors import FolkmootError, RoundError, TransientError
from site_tasks.one_parser import ONE_PARSER

if TYPE_CHECKING:
    from folkmoot.plan import RunContext, Step

__all__ = ["border"]

_LOG_LIMIT = 4_000_000


@contextmanager
def border(step: Step, context: RunContext) -> Iterator[None]:
    """Run a site's step so that no exception carries data out of it.

    Parameters
    ----------
    step : Step
        The step; its ``place`` is the site.
    context : RunContext
        The run.

    Raises
    ------
    FolkmootError
        The step's own error, anew, with its site.
    TransientError
        ``transient.disk-full`` where the site's disk is full.
    RoundError
        ``round.site-failed`` for any other exception; its traceback is in ``private/site.log``.
    """
    try:
        yield
        return
    except Exception as error:
        _log(step, context, error)
        safe = _safe(step, error)
    try:
        raise safe from None
    finally:
        safe.__context__ = None  # `from None` hides the original, but would keep it reachable


def _safe(step: Step, error: Exception) -> FolkmootError:
    if isinstance(error, FolkmootError):
        site = error.site or step.place
        return type(error)(**error.crossing(), site=site)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransientError(
            "transient.disk-full",
            f"No space is left at site {step.place} in step {step.name}; nothing was published.",
            "Free space at the site and start again: finished steps are not repeated.",
            site=step.place,
        )
    if isinstance(error, MemoryError):
        return RoundError(
            "round.site-failed",
            f"Step {step.name} ran out of memory at site {step.place}.",
            "Give the site more memory, or set data.precision to float32.",
            site=step.place,
        )
    return RoundError(
        "round.site-failed",
        f"Step {step.name} failed at site {step.place}.",
        "Look at private/site.log in the site's folder: the traceback stays there.",
        site=step.place,
    )


def _log(step: Step, context: RunContext, error: Exception) -> None:
    """Append the traceback to the site's log; a log that cannot be written changes nothing."""
    from site_tasks.home import SiteHome

    with suppress(Exception):
        path = SiteHome.find(step.place, context.workspace).log
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            os.replace(path, path.with_suffix(".log.1"))
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lines = [f"{when} {context.federation} {context.run} {step.name}\n"]
        with ONE_PARSER:
            lines += traceback.format_exception(error)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(lines))
