"""What a coordinator and a site install: hashed lists of the versions that are tested, and no more."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTS = {
    "site.txt": ("site", "worker", "s3"),
    "coordinator.txt": ("coordinator", "postgres", "s3"),
}
#: At a site nobody tracks, serves or draws; what is for development alone is in neither.
NOT_AT_A_SITE = ("mlflow", "mlflow-skinny", "prometheus-client", "psycopg2-binary", "matplotlib")
TOOLS = ("pytest", "schemathesis", "playwright", "moto", "mypy", "ruff")


def versions(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z0-9,-]+\])?==([^ ;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LISTS)
def test_lists_hold_what_their_extras_ask_for_as_it_is_tested(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for extra in LISTS[name] for r in extras[extra])]
    wanted = {re.split(r"[^A-Za-z0-9_.-]", text)[0].lower().replace("_", "-") for text in asked}
    found, locked = versions(name), versions("lock.txt")
    assert wanted <= set(found)
    assert {package: locked[package] for package in found} == found
    assert not set(TOOLS) & set(found)
    text = (ROOT / "requirements" / name).read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_a_site_installs_no_server_and_its_worker_asks_for_none() -> None:
    assert not set(NOT_AT_A_SITE) & set(versions("site.txt"))
    code = f"""
import importlib, runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"mlflow", "prometheus_client", "psycopg2", "matplotlib"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from pipelines.hosts.airflow_pace import PRELOAD
for name in (*PRELOAD, "pipelines.hosts.airflow_worker", "pipelines.hosts.airflow_worker_setup",
             "site_tasks.train_trees", "site_tasks.train_histograms", "site_tasks.private.train"):
    importlib.import_module(name)
for file in ("federated_linear", "federated_trees", "federated_statistics", "refresh_site_data"):
    runpy.run_path({str(ROOT / "dags")!r} + f"/{{file}}.py")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
