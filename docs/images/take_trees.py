"""Take the pictures of a private tree federation: Adult over four sites, trained by Airflow.

Trains in a temporary workspace (or takes one that ``--workspace`` names), serves its MLflow and
photographs the plots of budget, curves and SHAP among the run's artefacts.  Run from the root of the
repository; Adult is downloaded, or read from ``FOLKMOOT_DATA``/adult.  Chromium must be on the PATH::

    python docs/images/take_trees.py
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from playwright.sync_api import Error, Page, sync_playwright

from folkmoot.params import parse_params
from pipelines.coordinator.mlflow_store import ui_command

FOLDER = Path(__file__).parent
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PORT = 5056
PLAN = {
    "federation": {"name": "adult", "sites": ["site-a", "site-b", "site-c", "site-d"]},
    "data": {"recipe": "adult", "scaling": "bounds"},
    "model": {"kind": "trees", "trees": {"strategy": "private_additive", "rounds": 12}},
    "privacy": {
        "mechanism": "gaussian",
        "clipping": "record",
        "epsilon": 1.0,
        "rows": 32_561,
        "evaluation": "noised",
    },
    "aggregation": {"weighting": "uniform", "evaluate_every": 0},
}
#: File among the run's artefacts, and the picture of MLflow's page of it.
PICTURES = {
    "plots/epsilon.png": "mlflow-trees-budget.png",
    "plots/shapes.png": "mlflow-trees-shapes.png",
    "plots/contributions.png": "mlflow-trees-shap.png",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, help="of a run of the same plan")
    found = parser.parse_args().workspace
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("Chromium is not on the PATH: install it (apt-get install chromium).\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if found is None:
            found = folder / "workspace"
            (folder / "params.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
            train = [sys.executable, "-m", "folkmoot.cli", "run", "--host", "airflow"]
            own = [
                "--params",
                str(folder / "params.yaml"),
                "--set",
                f"federation.workspace={found}",
            ]
            subprocess.run([*train, *own], check=True)
        server = subprocess.Popen(ui_command(parse_params(PLAN), found, port=PORT), cwd=folder)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
                photograph(browser.new_page(viewport={"width": 1300, "height": 820}))
                browser.close()
        finally:
            server.terminate()
            server.wait()
    return 0


def photograph(page: Page) -> None:
    url, api = f"http://127.0.0.1:{PORT}", page.request
    for _ in range(180):
        try:
            api.get(f"{url}/health")
            break
        except Error:
            time.sleep(1)
    name = {"experiment_name": PLAN["federation"]["name"]}  # type: ignore[index]
    experiment = api.get(f"{url}/api/2.0/mlflow/experiments/get-by-name", params=name).json()
    number = experiment["experiment"]["experiment_id"]
    query = {"experiment_ids": [number], "filter": "tags.`folkmoot.kind` = 'trees'"}
    found = api.post(f"{url}/api/2.0/mlflow/runs/search", data=query).json()["runs"]
    run = next(
        one["info"]["run_id"]
        for one in found
        if all(tag["key"] != "mlflow.parentRunId" for tag in one["data"]["tags"])
    )
    curves = {"path": "plots/shapes.png", "run_uuid": run}
    own = api.get(f"{url}/get-artifact", params=curves)
    (FOLDER / "private-shapes.png").write_bytes(own.body())
    for artefact, picture in PICTURES.items():
        page.goto(f"{url}/#/experiments/{number}/runs/{run}/artifacts/{artefact}")
        page.reload()  # a new fragment alone leaves the page as it was
        page.locator(f"img[src^=blob], img[src*={Path(artefact).stem}]").first.wait_for(
            timeout=240_000
        )
        page.wait_for_timeout(3000)
        for label in ("Close", "close", "Dismiss"):
            for button in page.get_by_role("button", name=label, exact=True).all():
                if button.is_visible():
                    button.click()
        page.wait_for_timeout(2000)
        page.get_by_text("Path:").first.evaluate("line => line.remove()")  # of this machine
        page.screenshot(path=FOLDER / picture)


if __name__ == "__main__":
    sys.exit(main())
