"""Take the pictures of the documentation from the running UIs, in a real browser.

Start `make ui` after `make demo`, then::

    python docs/images/take.py --password PASSWORD

With ``--missing`` it takes one picture: the newest run of a workspace in which a site was lost between
upload and answer of a masked round (``tests/secure/test_hosts.py`` shows how).

Chromium must be on the PATH (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
#: Keep the browser from looking for its maker's hosts.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--dag", default="federated_linear")
    parser.add_argument("--federation", default="demo")
    parser.add_argument("--missing", action="store_true", help="only the grid of a drop-out")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("Chromium is not on the PATH: install it (apt-get install chromium).\n")
        return 2
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        height = 1500 if arguments.missing else 950
        page = browser.new_page(viewport={"width": 1500, "height": height})
        page.set_default_timeout(120_000)
        log_in(page, arguments.airflow, arguments.user, arguments.password)
        name = "airflow-dropout.png" if arguments.missing else "airflow-grid.png"
        airflow(page, arguments.airflow, arguments.dag, arguments.user, arguments.password, name)
        if not arguments.missing:
            mlflow(page, arguments.mlflow, arguments.federation)
        browser.close()
    return 0


def log_in(page: Page, url: str, user: str, password: str) -> None:
    page.goto(f"{url}/auth/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda found: "login" not in found)


def airflow(page: Page, url: str, dag: str, user: str, password: str, name: str) -> None:
    """The newest successful run: the grid with its groups unfolded beside the tasks."""
    login = {"username": user, "password": password}
    token = page.request.post(f"{url}/auth/token", data=login).json()["access_token"]
    runs = page.request.get(
        f"{url}/api/v2/dags/{dag}/dagRuns?state=success&order_by=-run_after&limit=1",
        headers={"Authorization": f"Bearer {token}"},
    ).json()["dag_runs"]
    if not runs:
        sys.exit(f"No run of {dag} has ended well yet: there is nothing to take a picture of.")
    page.goto(f"{url}/dags/{dag}/runs/{runs[0]['dag_run_id']}")
    page.wait_for_timeout(5000)
    expand = page.get_by_role("button", name=re.compile("expand all", re.IGNORECASE)).first
    expand.wait_for()
    if expand.is_enabled():  # else an earlier visit unfolded them
        expand.click()
    page.wait_for_timeout(4000)
    page.screenshot(path=FOLDER / name)


def mlflow(page: Page, url: str, federation: str) -> None:
    """The newest training: its metrics over rounds."""
    api = page.request
    name = {"experiment_name": federation}
    experiment = api.get(f"{url}/api/2.0/mlflow/experiments/get-by-name", params=name).json()
    number = experiment["experiment"]["experiment_id"]
    query = {
        "experiment_ids": [number],
        "filter": "tags.`folkmoot.kind` = 'linear'",
        "max_results": 50,
    }
    found = api.post(f"{url}/api/2.0/mlflow/runs/search", data=query).json()["runs"]
    parents = [
        run
        for run in found
        if not any(tag["key"] == "mlflow.parentRunId" for tag in run["data"]["tags"])
    ]
    run = parents[0]["info"]["run_id"]
    for name, part in (("mlflow-run", ""), ("mlflow-metrics", "/model-metrics")):
        page.goto(f"{url}/#/experiments/{number}/runs/{run}{part}")
        page.wait_for_timeout(5000)
        for label in ("Close", "close", "Dismiss"):
            for button in page.get_by_role("button", name=label, exact=True).all():
                if button.is_visible():
                    button.click()
        page.wait_for_timeout(1500)
        page.screenshot(path=FOLDER / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
