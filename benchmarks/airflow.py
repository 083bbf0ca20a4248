"""Airflow, breast_cancer, 4 sites: seconds per round against the same DAG with empty tasks.

Both DAGs run in the same Airflow, one after the other and several times, so that what else the
machine does strikes both alike.  A round lasts from the end of one aggregate to the end of the next.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.report import row
from folkmoot.params import Params, parse_params
from pipelines.hosts.airflow_run import environment
from pipelines.hosts.airflow_services import Services

ROUNDS = 12
REPEATS = 3
DAGS = Path(__file__).parent / "dags"


def main() -> None:
    params = parse_params(
        {
            "model": {"linear": {"rounds": ROUNDS, "early_stopping": {"tolerance": 0.0}}},
            "tracking": {"enabled": False},
        }
    )
    seconds: dict[str, list[float]] = {"empty_rounds": [], "federated_linear": []}
    with tempfile.TemporaryDirectory() as folder, local(params, Path(folder)) as airflow:
        began = time.time()
        airflow.wait_ready()
        for dag in seconds:
            airflow.wait_dag(dag, began)
        for _ in range(REPEATS):
            for dag in seconds:
                seconds[dag] += rounds(airflow, dag)
    empty, federated = (statistics.median(found) for found in seconds.values())
    setting = f"Airflow, 4 sites, {ROUNDS} Newton rounds"
    row(
        f"{setting}: a round against empty tasks",
        f"{federated / empty:.2f} × ({federated:.2f} s against {empty:.2f} s)",
        "≤ 1.3 ×",
        met=federated <= 1.3 * empty,
    )
    row(f"{setting}: seconds per round", f"{federated:.2f} s", "≤ 2 s", met=federated <= 2)


def local(params: Params, workspace: Path) -> Services:
    """A local Airflow with both DAGs."""
    added = {**environment(params, workspace, scheduled=False), "EMPTY_ROUNDS": str(ROUNDS)}
    return Services(workspace / "airflow", dags=DAGS, environment=added)


def rounds(airflow: Services, dag: str) -> list[float]:
    """Run a DAG; returns the seconds of every round after the first."""
    run = airflow.trigger(dag)
    while (state := airflow.dag_run(dag, run)["state"]) not in {"success", "failed"}:
        time.sleep(1)
    if state == "failed":
        raise SystemExit(f"{dag} failed: see its tasks in {airflow.home / 'logs'}")
    ends = sorted(
        datetime.fromisoformat(task["end_date"]).timestamp()
        for name, task in airflow.tasks(dag, run).items()
        if ".aggregate" in name
    )
    found = [after - before for before, after in itertools.pairwise(ends)]
    print(f"{dag}: {statistics.median(found):.2f} s a round", flush=True)
    return found


if __name__ == "__main__":
    main()
