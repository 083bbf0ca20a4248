"""Take the pictures of human approval from a running coordinator, in a real browser.

Start a DAG run of a coordinator (``folkmoot coordinator up``) whose params have ``approval.consent`` and
``approval.champion``; then::

    python docs/images/take_approval.py --airflow http://127.0.0.1:8080 --password PASSWORD

answers what the run asks, through the page as people do, and takes ``approval.png`` (the question to a
steward), ``approval-champion.png`` and ``airflow-three-sites.png`` (the grid of the finished run).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from typing import Any

from playwright.sync_api import Page, sync_playwright
from take import FOLDER, QUIET, airflow, log_in


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--dag", default="federated_linear")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(120_000)
        log_in(page, arguments.airflow, arguments.user, arguments.password)
        answer_all(page, arguments)
        login = (arguments.user, arguments.password)
        page.set_viewport_size({"width": 1500, "height": 1900})  # all rows of the grid
        airflow(page, arguments.airflow, arguments.dag, *login, "airflow-three-sites.png")
        browser.close()
    return 0


def answer_all(page: Page, arguments: argparse.Namespace) -> None:
    """Approve what the newest run asks until it is over; a picture of the first of each kind."""
    login = {"username": arguments.user, "password": arguments.password}
    token = page.request.post(f"{arguments.airflow}/auth/token", data=login).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    base = f"{arguments.airflow}/api/v2/dags/{arguments.dag}/dagRuns"

    def get(path: str) -> Any:
        return page.request.get(f"{base}{path}", headers=headers).json()

    taken: set[str] = set()
    while True:
        run = get("?order_by=-run_after&limit=1")["dag_runs"][0]
        if run["state"] not in {"queued", "running"}:
            print(run["dag_run_id"], run["state"])
            return
        asked = get(f"/{run['dag_run_id']}/taskInstances?limit=500")["task_instances"]
        waiting = [t["task_id"] for t in asked if t["state"] in {"awaiting_input", "deferred"}]
        for task in waiting:
            page.goto(
                f"{arguments.airflow}/dags/{arguments.dag}/runs/{run['dag_run_id']}/tasks/{task}"
                "/required_actions"
            )
            button = page.get_by_role("button", name="Approve", exact=True).first
            button.wait_for()
            page.wait_for_timeout(2500)
            name = "approval-champion.png" if task == "approve" else "approval.png"
            if name not in taken:
                page.screenshot(path=FOLDER / name)
                taken.add(name)
            button.click()
            page.wait_for_timeout(1500)
            print("approved", task, flush=True)
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
