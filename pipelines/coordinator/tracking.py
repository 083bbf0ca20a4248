"""Tracking in MLflow, always behind the run and never in its way.

Rounds publish to the exchange store and know nothing of MLflow.  :func:`sync` mirrors what has been
published so far, :func:`follow` does so while a run goes on, :func:`register` makes the final model
a version of a registered model.  All three can be repeated, stopped and resumed at any time: MLflow
may be down for a whole run, and the next call catches up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from folkmoot.errors import TransientError
from folkmoot.plan import RunContext
from pipelines.coordinator import registry
from pipelines.coordinator.mirror import Mirror
from pipelines.coordinator.mlflow_store import artifact_root, conversation, tracking_uri, ui_command
from pipelines.coordinator.published import published
from pipelines.coordinator.registry import Registered, register_version

__all__ = [
    "Registered",
    "Tracked",
    "artifact_root",
    "decide",
    "follow",
    "register",
    "sync",
    "tracking_uri",
    "ui_command",
]

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 30.0


@dataclass(frozen=True)
class Tracked:
    """How far MLflow is.

    Parameters
    ----------
    run_id : str
        MLflow's id of the parent run.
    rounds : int
        Rounds that are logged.
    finished : bool
        Whether the result is logged as well.
    """

    run_id: str
    rounds: int
    finished: bool


def sync(context: RunContext) -> Tracked:
    """Log everything that the run has published and MLflow does not have yet.

    Parameters
    ----------
    context : RunContext
        The run.  A context that is used again remembers what is logged, so that a further call
        costs no more than the new rounds.

    Returns
    -------
    Tracked

    Raises
    ------
    TransientError
        ``transient.tracking`` where MLflow does not answer; nothing is lost.
    ConfigError
        Where MLflow refuses for good, or is not installed.
    """
    found = published(context)
    with conversation(context.params, context.workspace):
        mirror = _mirror(context)
        try:
            mirror.log(found)
        except Exception:
            context.cache.pop("tracking.mirror", None)  # look afresh next time
            raise
    return Tracked(mirror.run, len(found.records), found.result is not None)


def follow(
    context: RunContext,
    deadline: float,
    *,
    interval: float = 1.0,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Keep MLflow up with a run until its result is logged.

    While MLflow is down, tries again after 1, 2, 4 … at most 30 seconds.

    Parameters
    ----------
    context : RunContext
        The run, which another process or thread carries out.
    deadline : float
        Seconds from now after which to give up.
    interval : float
        Seconds between looks at the exchange store.
    over : callable
        Tells that the run has ended, well or not: one last sync, then return.
    say : callable
        Told when MLflow goes and comes back.
    sleep : callable
        Waits for a number of seconds.

    Returns
    -------
    bool
        Whether the result is logged.  Where it is not, a later :func:`sync` catches up.

    Raises
    ------
    ConfigError
        Where MLflow refuses for good.
    """
    end = time.monotonic() + deadline
    wait = 0.0
    while True:
        last = over() or time.monotonic() >= end
        try:
            tracked = sync(context)
            if wait:
                say(f"MLflow answers again: {tracked.rounds} rounds are logged.")
            wait = 0.0
            if tracked.finished or last:
                return tracked.finished
        except TransientError as error:
            if not wait:
                say(str(error))
            if last:
                return False
            wait = min(max(2 * wait, _FIRST_WAIT), _LONGEST_WAIT)
        sleep(min(wait or interval, max(end - time.monotonic(), 0.0)))


def register(context: RunContext) -> Registered:
    """Make the run's final model a version of the registered model; once per run.

    The version becomes ``candidate``, and ``champion`` when it beats the present champion
    (:func:`pipelines.coordinator.registry.verdict`).

    Returns
    -------
    Registered
        Name, version, aliases, and why it is champion or not.

    Raises
    ------
    ProtocolError
        ``protocol.missing`` while the run has no result.
    TransientError, ConfigError
        As :func:`sync`.
    """
    found = published(context)
    found.outcome(context.run)
    with conversation(context.params, context.workspace):
        return register_version(_mirror(context), found)


def decide(context: RunContext, approved: bool, by: str) -> Registered:
    """A person's decision whether the run's model becomes champion (``approval.champion``).

    Raises
    ------
    ConfigError
        Where no decision is awaited.
    TransientError
        As :func:`sync`.
    """
    with conversation(context.params, context.workspace):
        return registry.decide(_mirror(context), context.run, approved, by)


def _mirror(context: RunContext) -> Mirror:
    mirror: Mirror | None = context.cache.get("tracking.mirror")
    if mirror is None:
        mirror = context.cache["tracking.mirror"] = Mirror(context)
    return mirror
