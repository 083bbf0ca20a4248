"""Real sites while things break: every run ends as the undisturbed one, or says which sites it lacked.

On the test bed of ``make federation``, as root with network namespaces, a coordinator on PostgreSQL:
processes of coordinator and sites are killed with SIGKILL at random moments of a run, the line to a
site is cut, disks fill up, a site stays away.  Several moments fall into one run, each after the
recovery from the last.  What a service manager does is done here: whatever ended is
started again after some seconds.
Neither masks (whose rounding is random) nor noise, so that two runs have the same digests.

    python -m benchmarks.faults --tracked

A moment is drawn from ``<seed>-<kind>-<number>``: ``--kinds postgres:1 --first 7`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import row
from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.breakage import FAULTS, Broken, small_disks
from benchmarks.testbed.keeper import Keeper
from benchmarks.testbed.network import SITES, namespaces, possible
from benchmarks.testbed.outcome import DAG, Outcome, digests, keep_logs, reason, verified
from benchmarks.testbed.postgres import Postgres

KINDS = (*FAULTS, "absent")
#: Of each kind.
MOMENTS = 20
ABSENT_DEADLINE = 30


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

    def __init__(
        self, bed: Testbed, database: Postgres, keeper: Keeper, options: argparse.Namespace
    ) -> None:
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

        api = self.bed.api()
        name = api.trigger(DAG, conf)
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
        api.close()
        made = folder()
        good = found["state"] == "success" and made is not None
        result = digests(made) if good and made is not None else None
        why = "" if good else reason(self.bed, name)
        outcome = Outcome(found["state"], result, seconds, made.name if made else "", why)
        from datetime import datetime

        ended = datetime.fromisoformat(found["end_date"]).timestamp() if found["end_date"] else 0.0
        return outcome, [m for m in run.moments if not ended or m.when < ended]

    def disturb(self, kind: str, first: int, most: int) -> Callable[[Run], None]:
        """Faults of a kind until the run is over: each at random after the recovery from the last."""

        def go(run: Run) -> None:
            number = first
            while number < first + most and not run.over.is_set():
                dice = random.Random(f"{self.options.seed}-{kind}-{number}")
                longest = self.calm.seconds * 0.5 if number == first else self.options.gap
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
        site, good = SITES[-1], True
        for quorum in (len(SITES), len(SITES) - 1):
            file = self.bed.workspace / "params.yaml"
            values = yaml.safe_load(file.read_text())
            values["federation"] |= {"deadline_seconds": ABSENT_DEADLINE, "quorum": quorum}
            file.write_text(yaml.safe_dump(values))
            self.keeper.away.add("coordinator")
            self.bed.end("coordinator")
            self.bed.start("coordinator")
            self.bed.wait("Sites reach", "coordinator")
            self.keeper.away.discard("coordinator")
            self.bed.api().wait_dag(DAG, time.time() - 5.0)

            def leave(run: Run) -> None:
                while run.progress() < 3 and not run.over.wait(0.1):
                    pass
                self.keeper.away.add(site)
                self.bed.running[site].kill()
                self.bed.running[site].wait()

            ended, _ = self.train(leave)
            self.keeper.away.discard(site)
            whole = verified(self.bed)
            if quorum == len(SITES):
                fine = ended.quorum and site in ended.why
            else:
                fine = ended.state == "success" and not ended.same(self.calm)
            good = good and fine and whole
            row(
                f"{site} leaves during a run for good; deadline {ABSENT_DEADLINE} s, quorum {quorum}",
                f"{ended.state} after {ended.seconds:.0f} s{', ' if ended.why else ''}{ended.why}",
                "quorum error that names it" if quorum == len(SITES) else "goes on without it",
                met=fine and whole,
            )
        return good


def run(options: argparse.Namespace) -> int:
    database = Postgres(["max_connections=200"])
    try:
        return _run(options, database)
    finally:
        database.stop()


def _run(options: argparse.Namespace, database: Postgres) -> int:
    database.start()
    database.wait()
    for name in ("airflow", "mlflow"):
        database.make(name)
    tracked = options.tracked
    server = {
        "heartbeat_seconds": 20,
        "eager": True,
        "database": database.url("airflow"),
    }
    if tracked:
        server |= {
            "mlflow": "https://localhost:5443",
            "mlflow_database": database.url("mlflow", "postgresql"),
        }
    bed = Testbed(
        options.folder,
        rounds=options.rounds,
        changes=[
            f"tracking.enabled={str(tracked).lower()}",
            f"federation.deadline_seconds={options.deadline}",
        ],
        namespaces=options.inside,
        server=server,
    )
    good = True
    with bed, small_disks(bed):
        bed.enrol(say=lambda text: print(text, flush=True))
        bed.api().wait_dag(DAG, 0.0)
        with Keeper(bed, database) as keeper:
            bench = Bench(bed, database, keeper, options)
            bench.calm, _ = bench.train()
            print(f"undisturbed: {bench.calm.state}, {bench.calm.seconds:.0f} s", flush=True)
            if bench.calm.result is None:
                print(f"Nothing can be compared: {bench.calm.why}")
                keep_logs(bed, "undisturbed")
                return 1
            for kind, moments in options.kinds:
                good &= bench.absent() if kind == "absent" else bench.kind(kind, moments)
    return 0 if good else 1


def _kind(word: str) -> tuple[str, int]:
    name, _, number = word.partition(":")
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(KINDS)}")
    return name, int(number or MOMENTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/faults"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first moment")
    told = f"any of {', '.join(KINDS)}; kind:N for other than {MOMENTS} moments"
    parser.add_argument(
        "--kinds", nargs="*", type=_kind, default=[(k, MOMENTS) for k in KINDS], help=told
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=5.0, help="most seconds between faults")
    parser.add_argument("--deadline", type=int, default=240, help="of a site's task, in seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="of a run, in seconds")
    parser.add_argument("--tracked", action="store_true", help="in MLflow, on PostgreSQL too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return run(options)
    why = possible()
    if why:
        print(f"Without network namespaces ({why}) there is nothing to break.")
        return 1
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.faults", "--inside", prefix, *sys.argv[1:]]
        done = subprocess.run(["ip", "netns", "exec", f"{prefix}-c", *command], check=False)
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
