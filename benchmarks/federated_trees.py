"""XGBoost's own federated communicator (``xgboost_federated``), embedded host, against pooled training.

200,000 x 28 rows over 4 sites, depth 6, as ``benchmarks.exact_trees``: four workers and the tracker as
processes of their own, TLS on loopback, against ``xgboost.train`` on the pooled rows in this process,
in turn, on the same cores.  Training is from when all are connected to the last tree, bin edges in
it; the whole has processes, certificates, release and aggregation in it.  Both begin with encoded rows.
Processor time is told as well: on a machine that others use, wall times of threads that wait for each
other say little.  Histograms, and with them what TLS carries, do not grow with the rows: the same with a
million of them shows that, and so does the traffic by itself (``benchmarks.session_traffic``).
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import xgboost

import benchmarks.trees as setting
from benchmarks.report import row
from benchmarks.session_traffic import alone, traffic
from folkmoot import metrics
from folkmoot.live.process import Child
from folkmoot.models.trees import usable_cores
from folkmoot.params import Params, parse_params
from pipelines.hosts.embedded import run
from site_tasks.live import train as live

STEPS, DEPTH, REPEATS = 50, 6, 3
MANY = 1_000_000
_SETTINGS = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": DEPTH}


class Clocked(Child):
    """A worker whose steps are noted with the time."""

    marks: list[tuple[int, float]] = []

    def said(self, wait: float = 0.0) -> dict[str, Any] | None:
        found = super().said(wait)
        if found is not None and "step" in found:
            Clocked.marks.append((int(found["step"]), time.perf_counter()))
        return found


def main() -> None:
    """All rows; begun anew where waiting threads would spin."""
    if os.environ.get("OMP_WAIT_POLICY") != "passive":
        # Threads that spin while they wait make pooled training look slow on a machine in use.
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.federated_trees"])
    setattr(live, "Child", Clocked)  # noqa: B010  # as a test would
    with tempfile.TemporaryDirectory() as folder:
        base, workspace = setting.federation(Path(folder))
        x, y = setting.pooled_rows(base, workspace, "train")
        held_out = setting.pooled_rows(base, workspace, "test")
        found: dict[str, list[float]] = {name: [] for name in ("training", "whole", "cpu")}
        auc = pooled_auc = 0.0
        for number in range(REPEATS):
            wall, cpu, booster = pooled(x, y)
            training, whole, work, result = federated(base, workspace, f"live-{number}", 1)
            found["training"].append(training / wall)
            found["whole"].append(whole / wall)
            found["cpu"].append(work / cpu)
            auc = result["metrics"]["overall"]["auc"]
            scores = booster.inplace_predict(held_out[0])
            counts = metrics.count("binary", held_out[1], scores, 2)
            pooled_auc = metrics.metrics("binary", counts)["auc"]
            sys.stdout.write(
                f"pooled {wall:.2f} s; training {training:.2f} s, whole {whole:.2f} s; "
                f"processor time {work:.1f} s and {cpu:.1f} s\n"
            )
        wall, _, _ = pooled(x, y)
        _, parted, _, _ = federated(base, workspace, "live-parted", 5)
        parts = [bound(x, y) for _ in range(REPEATS)]
    what = f"xgboost_federated, 200,000 × 28 rows, 4 sites, depth {DEPTH}, {STEPS} trees"
    row(
        f"{what}: AUC on held-out rows, against pooled xgb.train with its own bin edges",
        f"{auc:.5f}, {pooled_auc:.5f} (difference {abs(auc - pooled_auc):.5f})",
        "within 0.001",
        met=abs(auc - pooled_auc) <= 0.001,
    )
    row(
        "the same, one session: time of training against pooled xgb.train on the same cores "
        "(median; best)",
        _told(found["training"]),
        "≤ 2.5 ×",
        met=statistics.median(found["training"]) <= 2.5,
    )
    row(
        "the same: whole round, with processes, certificates and aggregation (median; best)",
        _told(found["whole"]),
        "≤ 2.5 ×",
        met=statistics.median(found["whole"]) <= 2.5,
    )
    row("the same in five sessions of ten trees, whole", f"{parted / wall:.2f} ×", "", met=None)
    row(
        f"the same, one session, {MANY:,} rows: time of training (median; best)",
        _told(many_rows()),
        "",
        met=None,
    )
    row(
        "the same: processor time of all five processes, against pooled on one thread "
        "(median; best)",
        _told(found["cpu"]),
        "",
        met=None,
    )
    quarters, workers, tracker = (statistics.median(part) for part in zip(*parts, strict=True))
    row(
        "processor time against pooled on one thread (medians): four quarters trained on by "
        "themselves; a session's traffic without training, workers and tracker",
        f"{quarters:.2f} ×; {workers:.2f} × and {tracker:.2f} ×",
        "",
        met=None,
    )


def bound(x: Any, y: Any) -> tuple[float, float, float]:
    """Of pooled training's processor time: training in quarters, workers' traffic, the tracker's."""
    _, cpu, _ = pooled(x, y)
    by_itself, (workers, tracker) = alone(x, y, _SETTINGS, STEPS), traffic(STEPS)
    sys.stdout.write(
        f"processor time: pooled {cpu:.2f} s; in quarters {by_itself:.2f} s; traffic of the workers "
        f"{workers:.2f} s, of the tracker {tracker:.2f} s\n"
    )
    return by_itself / cpu, workers / cpu, tracker / cpu


def many_rows() -> list[float]:
    """Training over pooled training, with more rows."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        base, workspace = setting.federation(Path(folder), MANY)
        x, y = setting.pooled_rows(base, workspace, "train")
        for number in range(REPEATS):
            wall, _, _ = pooled(x, y)
            training, _, _, _ = federated(base, workspace, f"many-{number}", 1)
            found.append(training / wall)
            sys.stdout.write(f"pooled {wall:.2f} s; training {training:.2f} s\n")
    return found


def federated(
    base: Params, workspace: Path, name: str, sessions: int
) -> tuple[float, float, float, dict[str, Any]]:
    """Seconds of training, of all rounds, of all processors; the result."""
    values = base.model_dump(mode="json")
    values["model"]["trees"].update(
        strategy="xgboost_federated",
        rounds=sessions,
        trees_per_round=STEPS // sessions,
        max_depth=DEPTH,
    )
    values["aggregation"].update(evaluate_every=0)
    Clocked.marks.clear()
    before = _processors(resource.RUSAGE_CHILDREN)
    result = run(parse_params(values), run=name, workspace=workspace)
    work = _processors(resource.RUSAGE_CHILDREN) - before
    whole = result["seconds"]["first_round"] + result["seconds"]["rounds"]
    starts = [when for step, when in Clocked.marks if step == -1]
    ends = [when for step, when in Clocked.marks if step == STEPS // sessions]
    return max(ends) - max(starts), whole, work, result


def pooled(x: Any, y: Any) -> tuple[float, float, xgboost.Booster]:
    """Seconds on all cores, processor seconds on one thread, and the booster."""
    began = time.perf_counter()
    cores = usable_cores()
    matrix = xgboost.QuantileDMatrix(x, y, nthread=cores)
    booster = xgboost.train(_SETTINGS | {"nthread": cores}, matrix, STEPS)
    wall = time.perf_counter() - began
    before = _processors(resource.RUSAGE_SELF)
    xgboost.train(_SETTINGS | {"nthread": 1}, xgboost.QuantileDMatrix(x, y, nthread=1), STEPS)
    return wall, _processors(resource.RUSAGE_SELF) - before, booster


def _processors(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ×; {min(ratios):.2f} ×"


if __name__ == "__main__":
    main()
