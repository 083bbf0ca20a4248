"""Time per round over rows (1e5 to 1e7 at 4 sites) and over sites (4 to 256 at 2,000 rows each).

Sites are prepared through the real preparation; what is timed is a round of FedAvg and of Newton
as the embedded host walks it.  The growth is the slope in log-log coordinates (1 is linear).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import row

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 20
ROUNDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, nargs="*", default=[1e5, 1e6, 1e7])
    parser.add_argument("--sites", type=int, nargs="*", default=[4, 16, 64, 256])
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "scaling.png")
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    rows = [(int(n), 4, int(n)) for n in arguments.rows]
    sites = [(2000 * n, n, n) for n in arguments.sites]
    for axis, settings in (("rows", rows), ("sites", sites)):
        found[axis] = {"newton": [], "fedavg": []}
        for total, members, value in settings:
            for strategy, seconds in measure(total, members).items():
                found[axis][strategy].append((value, seconds))
        for strategy, points in found[axis].items():
            row(
                f"{strategy}: time per round over {axis} {points[0][0]:g} to {points[-1][0]:g}",
                f"{points[0][1]:.3g} s to {points[-1][1]:.3g} s, slope {slope(points):.2f}",
                "near linear (slope ≤ 1.15)",
                met=slope(points) <= 1.15,
            )
    draw(found, arguments.plot)


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope in log-log coordinates; 1 where there is one point only."""
    if len(points) < 2:
        return 1.0
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def measure(rows: int, sites: int) -> dict[str, float]:
    """Seconds per round after the first, by strategy, in a fresh workspace and process."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.scaling", "--one", folder]
        done = subprocess.run(
            [*command, str(rows), str(sites)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        seconds = time.perf_counter() - began
        sys.stdout.write(f"{rows} rows, {sites} sites: {found} ({seconds:.0f} s with set-up)\n")
    return found


def one(folder: str, rows: int, sites: int) -> None:
    """Body of the measuring process."""
    from folkmoot.params import parse_params
    from pipelines.hosts.embedded import run

    found = {}
    for strategy in ("newton", "fedavg"):
        values: dict[str, Any] = {
            "federation": {"sites": [f"site-{n:03d}" for n in range(sites)]},
            "data": {
                "recipe": "synthetic",
                "rows": rows,
                "columns": COLUMNS,
                "precision": "float32",
            },
            "model": {
                "linear": {
                    "strategy": strategy,
                    "rounds": ROUNDS,
                    "batch_size": 4096,
                    "early_stopping": {"tolerance": 0.0},
                }
            },
            "tracking": {"enabled": False},
        }
        result = run(parse_params(values), workspace=Path(folder))
        found[strategy] = result["seconds"]["rounds"] / (result["rounds"] - 1)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def draw(found: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    """Both curves, log-log, with a line of slope 1 to compare with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (name, curves) in zip(axes, found.items(), strict=True):
        for strategy, points in curves.items():
            x, y = np.array(points).T
            axis.loglog(x, y, "o-", label=strategy)
        axis.loglog(x, y[-1] * x / x[-1], ":", color="grey", label="linear")
        axis.set_xlabel("rows (4 sites)" if name == "rows" else "sites (2,000 rows each)")
        axis.set_ylabel("seconds per round")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
