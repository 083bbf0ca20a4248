"""``make federation`` in small: a real coordinator and real sites, as apart as the machine allows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.testbed.capture import capturable
from benchmarks.testbed.network import possible
from benchmarks.testbed.users import unprivileged

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_federation_of_three_sites_leaks_nothing(tmp_path: Path) -> None:
    """They join, train and lose one that fails with a row in its error; the summary says all is well."""
    bed = ["--quick", "--rounds", "1", "--folder", str(tmp_path / "bed")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.federation", *bed],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, f"{said[-6000:]}{done.stderr[-3000:]}"
    told = dict(line.split("  ", 1) for line in said.splitlines() if "  " in line.strip())
    told = {what.strip(): value.strip() for what, value in told.items()}
    assert told["planted values found"] == "none"
    assert told["error that holds a row"].startswith("success")
    assert told["Airflow shows of it"].startswith("round.site-failed [")
    found, _, made = told["leaks on purpose found"].partition(" of ")
    assert found == made
    assert int(found) >= 48
    # Where the machine can do more, less is not enough.
    assert possible() is not None or told["a site reaches"].endswith(":8443")
    assert unprivileged() is not None or told["users"] != ""
    if capturable():
        read, _, records = told["of that decrypted"].partition(" records")[0].partition(" of ")
        assert read == records
        assert int(read) > 500
    if possible() is None:
        assert told["who reads another's folder"].startswith("nobody")
