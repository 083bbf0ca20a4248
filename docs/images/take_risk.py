"""Take the picture of a risk report: Cleveland's rows of the heart recipe, in a real browser.

Besides age and sex, the contract here counts chest pain, resting electrocardiogram and angina among
what an acquaintance may know.  Run from the root of the repository; the data is downloaded, or read
from ``FOLKMOOT_DATA``/heart.  Chromium must be on the PATH::

    python docs/images/take_risk.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from folkmoot.contract import load_contract
from folkmoot.params import parse_params
from pipelines.recipes.heart import rows
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.recode import anonymise_locally

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
KNOWN = {"cp", "restecg", "exang"}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("Chromium is not on the PATH: install it (apt-get install chromium).\n")
        return 2
    contract = load_contract(ROOT / "folkmoot" / "contracts" / "heart.yaml")
    columns = [
        c.model_copy(update={"role": "quasi_identifier"}) if c.name in KNOWN else c
        for c in contract.columns
    ]
    contract = contract.model_copy(update={"columns": columns})
    params = parse_params(
        {
            "data": {"recipe": "heart"},
            "anonymisation": {
                "recoding": "local",
                "k": 5,
                "l_diversity": {"l": 2},
                "sensitive": "disease",
            },
        }
    )
    frame = rows(params.data, contract).frame()
    frame = frame[frame.pop("hospital") == "cleveland"].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "rows.parquet"
        frame.to_parquet(source, index=False)
        job = Job(
            source,
            folder / "anonymised.parquet",
            contract,
            params.anonymisation,
            bytes(32),
            site="cleveland",
            report=folder / "report",
            utility=True,
        )
        anonymise_locally(job)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto((folder / "report" / "risk.html").as_uri())
            page.screenshot(path=FOLDER / "risk-report.png", full_page=True)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
