"""A round over three edge workers, against the same DAG with empty tasks on the same workers.

The test bed of ``make federation``: a coordinator and three sites behind links of their own, everything
through TLS and guard.  Both DAGs run in turns, so that what else the machine does strikes both alike;
once without protection, once with masks.  A round lasts from the end of one aggregate (or of
``initialise``) to the end of the next.

    python -m benchmarks.edge_round --repeats 3
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import row
from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.beside import EMPTY
from benchmarks.testbed.network import SITES, namespaces, possible

OURS = "federated_linear"
ROUNDS = 4
#: Tasks of a round in the order they follow each other; the middle two under masks alone.
TURNS = ("train", "survivors", "unmask", "aggregate")
#: What a turn is made of: until the scheduler queues it, until its process runs, and its process.
PARTS = ("scheduling", "waiting and starting", "running")


class Bed(Testbed):
    """The test bed, with the empty DAG beside the project's."""

    def lasting(self, arguments: Sequence[str], site: str | None) -> list[str]:
        """Coordinator and workers as ``beside`` starts them."""
        own = list(arguments) if site is None else ["worker", site]
        return ["benchmarks.testbed.beside", *own]


class Watch:
    """Memory of the workers, looked at twice a second: the worker itself, and with its tasks."""

    def __init__(self, bed: Testbed) -> None:
        self._bed, self._over = bed, threading.Event()
        self.worker: list[tuple[int, int]] = []
        self.together: list[int] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            for site in SITES:
                try:
                    own = psutil.Process(self._bed.running[site].pid)
                    found = own.memory_full_info()
                    below = [p.memory_full_info().pss for p in own.children(recursive=True)]
                except (psutil.Error, KeyError):
                    continue
                self.worker.append((found.rss, found.pss))
                self.together.append(found.pss + sum(below))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()


def moment(task: dict[str, Any], what: str) -> float:
    """One of a task's times, in seconds."""
    return datetime.fromisoformat(task[what]).timestamp()


def turns(tasks: dict[str, dict[str, Any]]) -> list[list[tuple[str, tuple[float, ...]]]]:
    """Of every round its turns with the seconds of their parts, those of the site that ended last."""
    found, before = [], moment(tasks["initialise"], "end_date")
    for number in range(1, ROUNDS + 1):
        made: list[tuple[str, tuple[float, ...]]] = []
        for turn in TURNS:
            some = [t for n, t in tasks.items() if n.startswith(f"round-{number:03d}.{turn}-")]
            if not some:
                continue
            last = max(some, key=lambda task: moment(task, "end_date"))
            at = [before, *(moment(last, w) for w in ("queued_when", "start_date", "end_date"))]
            made.append((turn, tuple(b - a for a, b in itertools.pairwise(at))))
            before = at[-1]
        found.append(made)
    return found


def measured(bed: Testbed, repeats: int, say: Callable[[str], None]) -> dict[str, list[Any]]:
    """Rounds of both DAGs, run in turns."""
    api = bed.api()
    for dag in (OURS, EMPTY):
        api.wait_dag(dag, 0.0)
    api.close()
    found: dict[str, list[Any]] = {EMPTY: [], OURS: []}
    for _ in range(repeats):
        for dag in found:
            done = bed.train(dag)
            if done["state"] != "success":
                raise SystemExit(f"{dag} failed: see {bed.folder}")
            rounds = turns(done["tasks"])
            found[dag] += rounds
            took = [sum(sum(parts) for _, parts in made) for made in rounds]
            say(f"  {dag}: {', '.join(f'{s:.2f}' for s in took)} s a round")
    return found


def split(rounds: list[Any]) -> dict[str, list[float]]:
    """Median seconds of every part of every turn."""
    names = [turn for turn, _ in rounds[0]]
    return {
        name: [statistics.median(made[i][1][part] for made in rounds) for part in range(3)]
        for i, name in enumerate(names)
    }


def run(options: argparse.Namespace, prefix: str | None) -> int:
    """Measure, and tell."""
    good = True
    for protection in options.protection:
        changes = [
            f"aggregation.protection={protection}",
            "model.linear.early_stopping.tolerance=0",
            f"tracking.enabled={str(options.track).lower()}",
        ]
        folder = options.folder / protection
        server = {"eager": True, "ui_port": 0}
        with Bed(folder, rounds=ROUNDS, changes=changes, namespaces=prefix, server=server) as bed:
            bed.enrol(say=lambda text: None)
            print(f"protection {protection}", flush=True)
            watch = Watch(bed)
            found = measured(bed, options.repeats, lambda text: print(text, flush=True))
            watch.stop()
        seconds = {
            dag: statistics.median(sum(sum(p) for _, p in made) for made in rounds)
            for dag, rounds in found.items()
        }
        print(f"  {'median seconds':28}" + "".join(f"{part:>22}" for part in PARTS))
        for dag, rounds in found.items():
            for turn, parts in split(rounds).items():
                print(f"  {dag:16} {turn:11}" + "".join(f"{p:22.2f}" for p in parts))
        ratio = seconds[OURS] / seconds[EMPTY]
        good = good and ratio <= 1.3
        setting = f"three edge workers, {ROUNDS} rounds, protection {protection}"
        row(
            f"{setting}: a round against empty tasks",
            f"{ratio:.2f} × ({seconds[OURS]:.2f} s against {seconds[EMPTY]:.2f} s: "
            f"{100 / ratio:.0f} % are Airflow's own)",
            "≤ 1.3 ×",
            met=ratio <= 1.3,
        )
        rss, pss = (statistics.median(w[i] for w in watch.worker) / 1e6 for i in (0, 1))
        row(
            f"{setting}: memory of a worker (proportional; with its tasks at most)",
            f"{rss:.0f} MB resident ({pss:.0f} MB; {max(watch.together) / 1e6:.0f} MB)",
            "reported",
            met=None,
        )
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/edge-round"))
    parser.add_argument("--repeats", type=int, default=3, help="runs of each DAG")
    parser.add_argument("--protection", nargs="+", default=["none", "masks"])
    parser.add_argument("--track", action="store_true", help="with MLflow beside the rounds")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run(options, options.inside)
    why = possible()
    if why:
        print(f"Without network namespaces ({why}): all sites share the loopback.", flush=True)
        return run(options, None)
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.edge_round", *sys.argv[1:]]
        command = ["ip", "netns", "exec", f"{prefix}-c", *command, "--inside", prefix]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
