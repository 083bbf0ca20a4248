"""The embedded host: one process walks the plan, site by site.

Finished steps are found in the exchange store and not run again, so a killed run resumes where it
was.  A site whose step fails is left out of its round as long as the quorum allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from folkmoot.errors import FolkmootError, RoundError
from folkmoot.models.trees import usable_cores
from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, RoundPlan, RunContext, Step, keys
from folkmoot.trees.options import SUMMED
from pipelines.coordinator import lock
from pipelines.coordinator.collect import open_early
from pipelines.coordinator.finished_sums import clear
from pipelines.coordinator.open_round import load_json, open_run, run_name
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import contract_for, ending, ensure_members, record, roster_for
from pipelines.plans import plan_of

__all__ = ["Progress", "Walk", "run"]


@dataclass
class Progress:
    """What a run tells while it goes on; the defaults keep silent."""

    say: Callable[[str], None] = lambda message: None
    round: Callable[[int, int, dict[str, Any]], None] = lambda number, rounds, record: None


@dataclass
class Walk:
    """Carries out steps of a plan; a site that fails is left out where the quorum allows."""

    plan: RoundPlan
    context: RunContext
    progress: Progress
    cores: int = field(default_factory=usable_cores)
    failed: dict[str, FolkmootError] = field(default_factory=dict)
    #: Stage whose later steps a site has no part in any more: it missed an earlier one.
    _left_out: dict[str, str] = field(default_factory=dict)
    #: Threads for steps that do not wait for one another, and how many.
    _pool: tuple[int, ThreadPoolExecutor] | None = None

    def do(self, step: Step) -> None:
        """Execute a step; a site's failure is noted, the coordinator's ends the run."""
        if step.place == COORDINATOR:
            self._enough(step)
            execute(step, self.context)
            return
        stage = step.name.partition("/")[0]
        if self._left_out.get(step.place) == stage:
            return
        if step.place in self.failed and not stage.startswith("round-"):
            return
        try:
            execute(step, self.context)
            self.failed.pop(step.place, None)
        except FolkmootError as error:
            self.failed[step.place] = error
            self._left_out[step.place] = stage
            self.progress.say(f"{step.place} is left out of {step.name}: {error}")
            return
        params = self.context.params
        if params.kind == "trees" and not params.aggregation.masked and "/train/" in step.name:
            with suppress(FolkmootError):  # the coordinator's own try says so
                open_early(step, self.context)

    def through(self, steps: Sequence[Step]) -> None:
        """Execute a stage in the plan's order: one task at every site, the coordinator, and so on.

        A round may have any number of these turns (an exchange of keys, an unmasking …).  Steps that
        talk to one another while they run are one turn, the coordinator's among them.
        """
        for _, turn in groupby(steps, key=_task):
            self.together(tuple(turn))

    def together(self, steps: Sequence[Step]) -> None:
        """Execute steps that do not wait for one another.

        Tree models: sites side by side, two per core, as each waits for its ledger's disk.  XGBoost
        lets go of the interpreter, and two sites with one thread each are done sooner than one with
        two threads, which wait for each other at every node.  Histograms are exchanged so often that
        more than one site beyond the cores wait for the interpreter.  The results are the same bytes.
        """
        cores = self.cores
        summed = self.context.params.model.trees.strategy == SUMMED
        most = cores + 1 if summed else 2 * cores
        workers = min(len(steps), most) if self.plan.kind == "trees" else 1
        at_work = min(workers, cores)
        if steps[0].live:
            workers = len(steps)
            at_work = sum(step.place != COORDINATOR for step in steps)
            for step in steps:  # before anybody waits for a step that will not begin
                if step.place == COORDINATOR:
                    self._enough(step)
        self.context.cache["threads"] = max(1, cores // max(1, at_work))
        if workers < 2:
            for step in steps:
                self.do(step)
            return
        if self._pool is None or self._pool[0] < workers:
            # Kept: with threads of its own every exchange of histograms took a tenth longer.
            self._pool = workers, ThreadPoolExecutor(workers)
        try:
            list(self._pool[1].map(self.do, steps))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self.context.cache["stopped"] = True  # a session would go on to its end
            self._pool[1].shutdown()
            self._pool = None
            raise

    def _enough(self, step: Step) -> None:
        """Where the quorum is lost, a site's own error says more than the count of sites."""
        sites = {before.place for before in self.plan.site_steps(step.after)}
        required = len(sites) if step.quorum is None else step.quorum
        failed = [self.failed[site] for site in sorted(sites & set(self.failed))]
        if len(sites) - len(failed) < required:
            if len(sites) == len(failed) or len(failed) == 1 or step.quorum in (None, len(sites)):
                raise failed[0]
            raise RoundError(
                "round.quorum",
                f"{step.name}: {len(sites) - len(failed)} of {len(sites)} sites are left, "
                f"{required} are required. First error: {failed[0].message}",
                failed[0].remedy,
            )


def run(
    params: Params,
    *,
    run: str | None = None,
    workspace: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a federation in this process, or resume it.

    Parameters
    ----------
    params : Params
        Typed ``params.yaml``.
    run : str, optional
        Name of the run; by default the unfinished run of the same params, else a new one.
    workspace : Path, optional
        Instead of ``federation.workspace``.
    progress : Progress, optional
        Told of phases and rounds.

    Returns
    -------
    dict
        The run's ``result.json`` with ``seconds``: ``set_up``, ``preparation``, ``first_round``,
        ``rounds`` (those after the first) and ``evaluation``.

    Raises
    ------
    FolkmootError
        The first error that the quorum cannot absorb.
    """
    progress = progress or Progress()
    clock = _Clock()
    workspace = workspace or Path(params.federation.workspace)
    ensure_members(params, workspace, progress.say)
    contract = contract_for(params)
    plan = plan_of(params, contract)
    store = store_of(params, workspace)
    roster = roster_for(workspace)
    name = run or run_name(params, contract, roster, store)
    patience = 2.0 * params.federation.deadline_seconds
    lock.acquire(workspace, plan.federation, name, "embedded", patience)
    try:
        context = open_run(params, contract, roster, name, store, workspace)
        walk = Walk(plan, context, progress)
        clock.lap("set_up")
        progress.say(f"Run {name}: {len(plan.sites)} sites prepare their data")
        for step in plan.opening():
            walk.do(step)
        clock.lap("preparation")
        last = _rounds(walk, clock)
        if not params.statistics.active:
            progress.say(f"{len(plan.sites)} sites evaluate the model of round {last}")
        for step in plan.stage("final/"):
            walk.do(ending(step, last))
        clock.lap("evaluation")
    finally:
        lock.release(workspace, plan.federation, name)
    result = load_json(context, keys.RESULT) or {}
    return {**result, "seconds": clock.laps}


def _rounds(walk: Walk, clock: _Clock) -> int:
    """Walk the rounds; returns the one that was last."""
    last = walk.plan.rounds
    for round in range(1, walk.plan.rounds + 1):
        found = record(walk.context, round)
        if found is None:
            walk.through(walk.plan.stage(f"round-{round:03d}/"))
            found = record(walk.context, round) or {}
        if round == 1:
            clock.lap("first_round")
        walk.progress.round(round, walk.plan.rounds, found)
        clear(walk.context, round, found, walk.progress.say)
        if found.get("stop"):
            walk.progress.say(f"Rounds end after round {round}: {found['stop']}")
            last = round
            break
    clock.lap("rounds")
    return last


def _task(step: Step) -> str:
    """What all do at one time: the step's name without its site."""
    if step.live:
        return "live"
    return step.name if step.place == COORDINATOR else step.name.rpartition("/")[0]


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
