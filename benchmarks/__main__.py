"""Run every benchmark in a process of its own and print one table (exit 1 where one is missed)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import MARK

#: In the order of the table; quick ones first.
NAMES = (
    "newton",
    "noise",
    "audits",
    "heart",
    "private_linear",
    "private_trees",
    "private_round",
    "embedded",
    "guard",
    "ledger",
    "secure_aggregation",
    "statistics",
    "crash",
    "poisoning",
    "trees",
    "exact_trees",
    "federated_trees",
    "anonymise_risk",
    "anonymise_lattice",
    "memory",
    "anonymise_federated",
    "airflow",
    "scaling",
    "anonymise_local",
)


def main(names: list[str]) -> int:
    console = Console(width=130 if not sys.stdout.isatty() else None)
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        console.print(f"Unknown: {', '.join(unknown)}. There are: {', '.join(NAMES)}")
        return 2
    rows: list[dict[str, Any]] = []
    for name in names or NAMES:
        console.print(f"[bold]{name}[/]")
        began = time.perf_counter()
        found, code = measure(name)
        console.print(f"  {time.perf_counter() - began:.0f} s")
        if code or not found:
            failed = {
                "what": f"{name}: ended with {code}",
                "measured": "–",
                "must": "",
                "met": False,
            }
            found = [*found, failed]
        rows += found
    table = Table(
        title=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    for column in ("what", "measured", "must be", "met"):
        table.add_column(column)
    for row in rows:
        met = {True: "yes", False: "[red]NO[/]", None: ""}[row["met"]]
        table.add_row(row["what"], row["measured"], row["must"], met)
    console.print(table)
    return int(any(row["met"] is False for row in rows))


def measure(name: str) -> tuple[list[dict[str, Any]], int]:
    """Rows that a benchmark printed, and its exit code; other lines are passed on as they come."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                rows.append(json.loads(line.removeprefix(MARK)))
            else:
                sys.stdout.write("  " + line)
                sys.stdout.flush()
    return rows, process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
