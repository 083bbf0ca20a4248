"""Peak memory of every task of a site with 10 million rows of 20 columns (Parquet).

Each step of a real plan runs in a process of its own, as Airflow and DVC run it, and reports its
peak resident set (``ru_maxrss``: interpreter, libraries and touched pages of mapped files
included).  The table has identifiers to drop, quasi-identifiers to generalise, and k = 5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory_task import COLUMNS, SITE
from benchmarks.report import row

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e7)
    parser.add_argument("--kinds", nargs="*", default=["linear", "trees"])
    arguments = parser.parse_args()
    rows = int(arguments.rows)
    size = rows * COLUMNS * 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child("make", folder, rows)
        for kind in arguments.kinds:
            found = {}
            for step in json.loads(child("open", folder, kind)[-1]):
                began = time.perf_counter()
                peak = int(child("step", folder, kind, step)[-1])
                seconds = time.perf_counter() - began
                sys.stdout.write(
                    f"{kind:7} {step:28} {seconds:6.1f} s {peak / 2**20:7.0f} MiB "
                    f"{peak / size:5.2f} x\n"
                )
                sys.stdout.flush()
                if step.endswith(SITE):
                    found[step] = peak / size
            worst = max(found, key=lambda step: found[step])
            row(
                f"memory of a site's tasks, {kind}, {rows:.0e} x {COLUMNS} rows: largest peak "
                "over the rows' float32 size",
                f"{found[worst]:.2f} x ({worst})",
                "≤ 2 x",
                met=found[worst] <= 2,
            )


def child(task: str, *arguments: object) -> list[str]:
    """Run one task in a process of its own; its lines of output."""
    command = [sys.executable, "-m", "benchmarks.memory_task", task, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
