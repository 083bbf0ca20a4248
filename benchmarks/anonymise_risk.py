"""Risk figures of raw Adult: how fast, how near to pycanon, and uniqueness in the population.

``FOLKMOOT_PYCANON`` names a Python that has pycanon (an environment of its own); without it that
row says so.  ``--examples`` is how many random tables the engines' outputs are checked on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adult_rows import coded, enlarged
from benchmarks.report import row
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.risk.figures import measure
from site_tasks.anonymise.risk.uniqueness import estimate

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "anonymise"
SEEDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    arguments = parser.parse_args()
    adult = coded()
    speed(adult, "30,162 rows", 15, 31)
    speed(enlarged(adult, 1_000_000), "1e6 rows", 200, 7)
    uniqueness(adult, coded("adult.test"))
    pycanon()
    tested("random", arguments.examples)


def timed(work: Callable[[], Any], times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of one core (one thread, no waiting), and by the clock."""
    core, clock = [], []
    for _ in range(times):
        began, started = time.process_time(), time.perf_counter()
        work()
        core.append((time.process_time() - began) * 1000)
        clock.append((time.perf_counter() - started) * 1000)
    return core, clock


def speed(table: Coded, what: str, most: float, times: int) -> None:
    found, clock = timed(lambda: measure(table), times)
    figures = measure(table)
    best, median = min(found), statistics.median(found)
    row(
        f"all risk and privacy figures of raw Adult, {what} ({figures.classes:,} classes)",
        f"{best:.1f} ms of one core (median {median:.1f} of {times}), by the clock {min(clock):.1f}",
        f"≤ {most:g} ms",
        met=best <= most,
    )


def uniqueness(train: Coded, test: Coded) -> None:
    """Mean error over samples of the 45,222 complete rows."""
    people = np.concatenate([train.codes, test.codes])
    ordered = tuple(column.ordered for column in train.columns)
    truth = alone(people)
    for share, most in ((0.01, 0.04), (0.1, 0.035), (0.5, 0.015)):
        errors, pitman = [], []
        for seed in range(SEEDS):
            chosen = np.random.default_rng(seed).choice(
                len(people), round(share * len(people)), replace=False
            )
            sample = people[chosen]
            sizes = np.unique(sample, axis=0, return_counts=True)[1]
            found = estimate(sizes, len(people), sample, ordered)
            errors.append(abs(found.share - truth))
            by_law = found.estimates["pitman"]
            pitman.append(np.nan if by_law is None else abs(by_law - truth))
        mean = statistics.mean(errors)
        row(
            f"population uniqueness from {share:.0%} of {len(people):,} rows, truth {truth:.4f}: "
            f"mean error of {SEEDS} samples",
            f"{mean:.4f} (largest {max(errors):.4f}; Pitman alone {np.nanmean(pitman):.4f})",
            f"≤ {most}",
            met=mean <= most,
        )


def alone(codes: np.ndarray[Any, Any]) -> float:
    sizes = np.unique(codes, axis=0, return_counts=True)[1]
    return float(np.count_nonzero(sizes == 1) / len(codes))


def pycanon() -> None:
    what = "k, l distinct and entropy, t, α, β, δ of Adult equal to pycanon's to 1e-9"
    if not os.environ.get("FOLKMOOT_PYCANON"):
        row(what, "not run: FOLKMOOT_PYCANON names no Python", "equal", met=None)
        return
    began = time.perf_counter()
    passed = pytest("pycanon", TESTS / "risk" / "test_figures.py", {})
    seconds = time.perf_counter() - began
    row(what, f"{'equal' if passed else 'NOT equal'} ({seconds:.0f} s)", "equal", met=passed)


def tested(what: str, examples: int) -> None:
    path = TESTS / "models" / "test_random_tables.py"
    began = time.perf_counter()
    passed = pytest("engine or notice", path, {"FOLKMOOT_EXAMPLES": str(examples)})
    seconds = time.perf_counter() - began
    row(
        f"{examples:,} {what} tables through the engines, against the obvious checker",
        f"{'none wrong' if passed else 'WRONG'} ({seconds:.0f} s)",
        "none wrong",
        met=passed,
    )


def pytest(only: str, path: Path, environment: dict[str, str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", only, "--timeout", "3600"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stdout.write(done.stdout)
    return done.returncode == 0


if __name__ == "__main__":
    main()
