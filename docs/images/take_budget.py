"""Take the picture of a run's budget as MLflow shows it: Adult, twelve private rounds, real browser.

Trains in a temporary workspace, serves its MLflow and photographs the plot among the run's artefacts.
Run from the root of the repository; Adult is downloaded, or read from ``FOLKMOOT_DATA``/adult.
Chromium must be on the PATH::

    python docs/images/take_budget.py
"""

from __future__ import annotations

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
PORT = 5055
PLAN = {
    "federation": {"name": "adult-trial", "sites": ["site-a", "site-b", "site-c", "site-d"]},
    "data": {"recipe": "adult", "scaling": "bounds", "holdout": {"by": "content"}},
    "model": {"linear": {"strategy": "private", "rounds": 12}},
    "privacy": {
        "mechanism": "gaussian",
        "clipping": "record",
        "epsilon": 1.0,
        "rows": 32_561,
        "evaluation": "noised",
    },
    "aggregation": {"weighting": "uniform", "evaluate_every": 0},
}


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("Chromium is not on the PATH: install it (apt-get install chromium).\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "folkmoot.cli", "run"], cwd=folder, check=True)
        workspace = folder / ".folkmoot"
        server = subprocess.Popen(ui_command(parse_params(PLAN), workspace, port=PORT), cwd=folder)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
                photograph(browser.new_page(viewport={"width": 1300, "height": 760}))
                browser.close()
        finally:
            server.terminate()
            server.wait()
    return 0


def photograph(page: Page) -> None:
    url, api = f"http://127.0.0.1:{PORT}", page.request
    for _ in range(120):
        try:
            api.get(f"{url}/health")
            break
        except Error:
            time.sleep(1)
    name = {"experiment_name": PLAN["federation"]["name"]}
    experiment = api.get(f"{url}/api/2.0/mlflow/experiments/get-by-name", params=name).json()
    number = experiment["experiment"]["experiment_id"]
    query = {"experiment_ids": [number], "filter": "tags.`folkmoot.kind` = 'linear'"}
    found = api.post(f"{url}/api/2.0/mlflow/runs/search", data=query).json()["runs"]
    run = next(
        one["info"]["run_id"]
        for one in found
        if all(tag["key"] != "mlflow.parentRunId" for tag in one["data"]["tags"])
    )
    page.goto(f"{url}/#/experiments/{number}/runs/{run}/artifacts/plots/epsilon.png")
    page.locator("img[src^=blob], img[src*=epsilon]").first.wait_for(timeout=180_000)
    page.wait_for_timeout(3000)
    for label in ("Close", "close", "Dismiss"):
        for button in page.get_by_role("button", name=label, exact=True).all():
            if button.is_visible():
                button.click()
    page.wait_for_timeout(2000)
    page.get_by_text("Path:").first.evaluate("line => line.remove()")  # of a temporary folder
    page.screenshot(path=FOLDER / "mlflow-budget.png")


if __name__ == "__main__":
    sys.exit(main())
