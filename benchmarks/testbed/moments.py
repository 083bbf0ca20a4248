"""Runs over the test bed with faults at random moments, held to an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import row
from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.breakage import FAULTS, Broken
from benchmarks.testbed.keeper import Keeper
from benchmarks.testbed.network import SITES
from benchmarks.testbed.outcome import DAG, Outcome, digests, keep_logs, reason, verified
from benchmarks.testbed.postgres import Postgres

__all__ = ["Bench", "Moment", "Run", "Settings"]

ABSENT_DEADLINE = 30


@dataclass(frozen=True)
class Settings:
    """What moments are drawn from.

    Parameters
    ----------
    seed : int
        With kind and number the seed of a moment.
    first : int
        Number of the first moment.
    gap : float
        Most seconds from a recovery to the next fault.
    timeout : float
        Seconds after which a run counts as one that does not end.
    """

    seed: int
    first: int
    gap: float
    timeout: float


@dataclass
class Moment:
    """A fault that hit: Unix time, what, seconds until the next round closed (None: run over)."""

    when: float
    what: str
    recovery: float | None = None


@dataclass
class Run:
    """A DAG run on its way."""

    folder: Callable[[], Path | None]
    over: threading.Event = field(default_factory=threading.Event)
    moments: list[Moment] = field(default_factory=list)

    def progress(self) -> int:
        """Rounds that were closed, and the result."""
        folder = self.folder()
        return (
            0
            if folder is None
            else len([*folder.glob("round-*/model"), *folder.glob("final/result.json")])
        )


class Bench:
    """The bed, what keeps it, and what the undisturbed run came to."""

    def __init__(self, bed: Testbed, database: Postgres, keeper: Keeper, options: Settings) -> None:
        self.bed, self.database, self.keeper, self.options = bed, database, keeper, options
        self.calm = Outcome("", None, 0.0)

    def train(
        self,
        disturb: Callable[[Run], None] | None = None,
        conf: dict[str, str] | None = None,
    ) -> tuple[Outcome, list[Moment]]:
        """One DAG run; told apart from others by its folder in the exchange store."""
        runs = self.bed.workspace / "exchange" / self.bed.params.federation.name / "runs"
        before = set(os.listdir(runs)) if runs.exists() else set()

        def folder() -> Path | None:
            if conf:
                return runs / conf["run"]
            made = sorted(set(os.listdir(runs)) - before) if runs.exists() else []
            return runs / made[-1] if made else None

        api, name = self._trigger(conf)
        run, began = Run(folder), time.monotonic()
        thread = threading.Thread(target=disturb, args=[run], daemon=True) if disturb else None
        if thread:
            thread.start()
        found: dict[str, Any] = {"state": "running", "end_date": None}
        while (
            found["state"] not in {"success", "failed"}
            and time.monotonic() - began < self.options.timeout
        ):
            time.sleep(1.0)
            try:
                found = api.dag_run(DAG, name)
            except Exception:  # the coordinator is being started again
                with contextlib.suppress(Exception):
                    api.close()
                api = self.bed.api()
        run.over.set()
        seconds = time.monotonic() - began
        if thread:
            thread.join()
        if found["state"] not in {"success", "failed"}:
            with contextlib.suppress(Exception):  # the next one would wait for it
                api.end_run(DAG, name, "It took too long.")
        api.close()
        made = folder()
        good = found["state"] == "success" and made is not None
        result = digests(made) if good and made is not None else None
        why = "" if good else reason(self.bed, name)
        outcome = Outcome(found["state"], result, seconds, made.name if made else "", why)
        ended = datetime.fromisoformat(found["end_date"]).timestamp() if found["end_date"] else 0.0
        return outcome, [m for m in run.moments if not ended or m.when < ended]

    def _trigger(self, conf: dict[str, str] | None) -> tuple[Any, str]:
        """Start a DAG run, as soon as the coordinator answers: the last fault may have just been."""
        deadline = time.monotonic() + self.options.timeout
        while True:
            api = self.bed.api()
            try:
                return api, api.trigger(DAG, conf)
            except Exception:
                api.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def disturb(self, kind: str, first: int, most: int) -> Callable[[Run], None]:
        """Faults of a kind until the run is over: each at random after the recovery from the last."""

        def go(run: Run) -> None:
            number = first
            while number < first + most and not run.over.is_set():
                dice = random.Random(f"{self.options.seed}-{kind}-{number}")
                # The first within the run, however fast the machine is.
                longest = 0.6 * self.calm.seconds if number == first else self.options.gap
                if run.over.wait(dice.uniform(0.0, longest)):
                    return
                when = time.time()
                what = FAULTS[kind](Broken(self.bed, self.database, dice, number))
                if what is None:
                    continue
                number += 1
                moment = Moment(when, what)
                run.moments.append(moment)
                closed, since = run.progress(), time.monotonic()
                while not run.over.wait(0.1):
                    if run.progress() > closed and not self.keeper.ended():
                        moment.recovery = time.monotonic() - since
                        break

        return go

    def kind(self, kind: str, wanted: int) -> bool:
        """So many moments of a kind; prints its row."""
        hit: list[Moment] = []
        same = quorum = other = runs = 0
        while len(hit) < wanted and runs < wanted:
            restarts = self.keeper.restarts
            first = self.options.first + len(hit)
            ended, moments = self.train(self.disturb(kind, first, wanted - len(hit)))
            resumed = ""
            if kind == "store-disk" and ended.state == "failed" and ended.name:
                resumed, why = " and resumed", ended.why
                ended, _ = self.train(conf={"run": ended.name})
                resumed += f" after {why or 'NO ERROR OF OURS'}"
            whole = verified(self.bed)
            runs, hit = runs + 1, [*hit, *moments]
            same += whole and ended.same(self.calm)
            quorum += whole and ended.quorum
            wrong = not (whole and (ended.same(self.calm) or ended.quorum))
            other += wrong
            if wrong or ended.quorum:
                keep_logs(self.bed, f"{kind}-{first}")
            for at, moment in enumerate(moments, start=first):
                told = {
                    "seed": f"{self.options.seed}-{kind}-{at}",
                    "hit": moment.what,
                    "recovery": moment.recovery and round(moment.recovery, 1),
                }
                print(f"moment: {json.dumps(told)}", flush=True)
            print(
                f"run: {kind}, {len(moments)} moments: {ended.state}{resumed}, "
                f"{ended.told(self.calm)}, {ended.seconds:.0f} s, "
                f"{self.keeper.restarts - restarts} restarts, "
                f"ledgers {'verified' if whole else 'DAMAGED'}",
                flush=True,
            )
        seconds = [m.recovery for m in hit if m.recovery is not None]
        recovery = (
            f"; next round closed after {statistics.median(seconds):.0f} s (median), "
            f"{max(seconds):.0f} s (most)"
            if seconds
            else ""
        )
        good = not other and len(hit) >= wanted
        row(
            f"{kind}: faults at random moments of runs over three sites",
            f"{len(hit)} moments in {runs} runs: {same} as undisturbed, {quorum} quorum errors, "
            f"{other} else{recovery}",
            "as undisturbed or a quorum error, ledgers verified",
            met=good,
        )
        return good

    def absent(self) -> bool:
        """A site that stays away beyond the deadline, without and with a quorum that allows it."""
        before, good = (self.bed.workspace / "params.yaml").read_text(), True
        try:
            for quorum in (len(SITES), len(SITES) - 1):
                values = yaml.safe_load(before)
                values["federation"] |= {"deadline_seconds": ABSENT_DEADLINE, "quorum": quorum}
                self._restart(yaml.safe_dump(values))
                good &= self._leave(SITES[-1], quorum)
        finally:
            self._restart(before)
        return good

    def _restart(self, params: str) -> None:
        """The coordinator with other params."""
        (self.bed.workspace / "params.yaml").write_text(params)
        self.keeper.away.add("coordinator")
        self.bed.end("coordinator")
        self.bed.start("coordinator")
        self.bed.wait("Sites reach", "coordinator")
        self.keeper.away.discard("coordinator")
        self.bed.api().wait_dag(DAG, time.time() - 5.0)

    def _leave(self, site: str, quorum: int) -> bool:
        def leave(run: Run) -> None:
            while run.progress() < 3 and not run.over.wait(0.1):
                pass
            self.keeper.away.add(site)
            self.bed.running[site].kill()
            self.bed.running[site].wait()

        ended, _ = self.train(leave)
        self.keeper.away.discard(site)
        whole, named = verified(self.bed), ended.quorum and site in ended.why
        alone = ended.state == "success" and not ended.same(self.calm)
        fine = whole and (named if quorum == len(SITES) else alone)
        row(
            f"{site} leaves during a run for good; deadline {ABSENT_DEADLINE} s, quorum {quorum}",
            f"{ended.state} after {ended.seconds:.0f} s{', ' if ended.why else ''}{ended.why}",
            "quorum error that names it" if quorum == len(SITES) else "goes on without it",
            met=fine,
        )
        return fine
