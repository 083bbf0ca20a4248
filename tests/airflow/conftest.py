"""A real Airflow for the tests of this folder, started once and ended with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params, parse_params
from pipelines.hosts.airflow_run import environment
from pipelines.hosts.airflow_services import Services
from pipelines.hosts.execute import store_of
from pipelines.simulation import ensure_sites

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 8


@dataclass
class Federation:
    """Four sites on breast_cancer, and the Airflow that trains over them."""

    airflow: Services
    params: Params
    workspace: Path

    @property
    def store(self) -> ExchangeStore:
        return store_of(self.params, self.workspace)

    def finish(self, dag: str, run: str, patience: float = 240.0) -> tuple[str, dict[str, str]]:
        """Wait for a DAG run; returns its state and the tasks' states."""
        deadline = time.monotonic() + patience
        while (state := self.airflow.dag_run(dag, run)["state"]) not in {"success", "failed"}:
            assert time.monotonic() < deadline, f"{dag} is still {state}"
            time.sleep(0.3)
        return state, {name: t["state"] for name, t in self.airflow.tasks(dag, run).items()}


# Not for the session: an Airflow that nobody asks anything takes a fifth of a core from other tests.
@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    workspace = tmp_path_factory.mktemp("federation")
    params = parse_params(
        {
            "federation": {"quorum": 3, "workspace": str(workspace)},
            "model": {"linear": {"rounds": ROUNDS, "early_stopping": {"tolerance": 0.0}}},
            "tracking": {"baselines": False},
            "schedule": {"cron": None, "refresh_cron": None, "on_new_data": True},
        }
    )
    told = environment(params, workspace, scheduled=True)
    # Any port: test workers that start together would both take 8080.
    with Services(workspace / "airflow", environment=told, port=0, eager=True) as airflow:
        began = time.time()
        ensure_sites(params, workspace)
        airflow.wait_ready()
        for dag in ("federated_linear", "federated_trees", "refresh_site_data"):
            airflow.wait_dag(dag, began)
        yield Federation(airflow, params, workspace)


def fresh_python(code: str, tmp_path: Path) -> str:
    """Run code in a new interpreter whose AIRFLOW_HOME is empty; returns its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
