"""Take the picture of a site's failed task from a running coordinator's Airflow, in a real browser.

With a DAG run in which a task of a site failed::

    python docs/images/take_failed.py --airflow http://127.0.0.1:8080 --password PASSWORD \
        --run RUN --task TASK

writes ``airflow-site-failed.png``: the task's log as the coordinator has it, one line.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from playwright.sync_api import sync_playwright
from take import FOLDER, QUIET, log_in


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--dag", default="federated_linear")
    parser.add_argument("--run", required=True)
    parser.add_argument("--task", required=True)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 700})
        page.set_default_timeout(60_000)
        log_in(page, arguments.airflow, arguments.user, arguments.password)
        page.goto(
            f"{arguments.airflow}/dags/{arguments.dag}/runs/{arguments.run}/tasks/{arguments.task}"
        )
        page.get_by_text("round.site-failed").first.wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=FOLDER / "airflow-site-failed.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
