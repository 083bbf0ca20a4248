"""Leaks on purpose, each really made through its channel: the search must find every one of them.

Every channel gets every form of planted rows, each with a name, numbers and a measurement of its own,
so that it is known what was found where.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.network import SITES
from benchmarks.testbed.users import COORDINATOR

__all__ = ["CHANNELS", "Leak", "leak", "payloads"]

#: Channel, and what the names of the places hold where it must be found.
CHANNELS = {
    "the line": "line ",
    "exchange store": "exchange/",
    "XCom": "database airflow/xcom",
    "Airflow's database": "database airflow/slot_pool",
    "coordinator's log": "airflow/logs/",
    "MLflow's database": "database mlflow/tags",
    "MLflow artefact": "mlartifacts/",
}


@dataclass(frozen=True)
class Leak:
    """What was let out where."""

    channel: str
    form: str
    needle: str | float | bytes


def payloads() -> dict[str, tuple[bytes, str | float | bytes]]:
    """Forms of a row that was never seen before: bytes, and what is to be found in them."""
    import io

    import numpy as np
    import pandas as pd

    def fresh() -> tuple[str, int, float]:
        number = 10**11 + secrets.randbelow(9 * 10**11)
        return f"Onpurpose-{secrets.token_hex(6)}", number, secrets.randbelow(10**9) / 1e10 + 17

    def frame(name: str, number: int, value: float) -> Any:
        rows = [(name, number, value), ("", 0, 1.5)]
        return pd.DataFrame(rows, columns=["patient", "record", "mean_radius"])

    def csv(name: str) -> bytes:
        return str(frame(name, *fresh()[1:]).to_csv(index=False)).encode()

    names = [fresh()[0] for _ in range(8)]
    number, value, packed, columns = fresh()[1], fresh()[2], fresh()[2], fresh()
    parquet = io.BytesIO()
    frame(*columns).to_parquet(parquet)
    before = fresh()[0]
    return {
        "name": (names[0].encode(), names[0]),
        "number": (str(number).encode(), str(number)),
        "measurement": (repr(value).encode(), value),
        "measurement in memory": (np.array([0.0, packed]).tobytes(), packed),
        "record as CSV": (csv(names[1]), names[1]),
        "record as Parquet": (parquet.getvalue(), columns[2]),
        "pseudonym before keying": (json.dumps({"id": before}).encode(), before),
        "hash without a key": (
            hashlib.sha256(names[2].encode()).hexdigest().encode(),
            hashlib.sha256(names[2].encode()).digest(),
        ),
        "base64": (base64.b64encode(b"." + csv(names[3])), names[3]),
        "hex": (csv(names[4]).hex().encode(), names[4]),
        "gzip": (gzip.compress(csv(names[5])), names[5]),
        "base64 of gzip": (base64.b64encode(gzip.compress(csv(names[6]))), names[6]),
    }


def leak(bed: Testbed, run: str, *, mlflow: bool = True) -> list[Leak]:
    """Let rows out through every channel.

    Parameters
    ----------
    bed : Testbed
        Running, its sites joined.
    run : str
        A DAG run of ``federated_linear`` that has ended.
    mlflow : bool
        Whether this run is tracked.
    """
    made: list[Leak] = []

    def forms(channel: str, *, text: bool = False) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for form, (data, needle) in payloads().items():
            readable = data.isascii() and data.decode("ascii").replace("\n", "").isprintable()
            found[form] = base64.b64encode(data) if text and not readable else data
            made.append(Leak(channel, form, needle))
        return found

    store = _stores(bed)[-1]
    line = forms("the line")
    for form in ("split over chunks and records", "content-encoding"):
        needle = f"Onpurpose-{secrets.token_hex(6)}"
        line[form] = (needle * 3).encode()
        made.append(Leak("the line", form, needle))
    in_log = forms("coordinator's log", text=True)
    _run(bed, SITES[1], _AT_SITE, line, forms("exchange store"), in_log, store)
    _through_api(bed, run, forms("XCom", text=True), forms("Airflow's database", text=True))
    if mlflow:
        _run(
            bed,
            None,
            _AT_COORDINATOR,
            forms("MLflow's database", text=True),
            forms("MLflow artefact"),
        )
    return made


def _stores(bed: Testbed) -> list[str]:
    """Keys of the runs in the exchange store, oldest first."""
    runs = bed.workspace / "exchange" / bed.params.federation.name / "runs"
    found = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime)
    return [f"{bed.params.federation.name}/runs/{path.name}" for path in found]


def _run(bed: Testbed, site: str | None, code: str, *arguments: Any) -> None:
    """Run code as a site's user or the coordinator's, with what it is to let out in its input."""
    sent = [
        {k: base64.b64encode(v).decode() for k, v in a.items()} if isinstance(a, Mapping) else a
        for a in arguments
    ]
    told = {"home": str(bed.home(site)) if site else str(bed.folder / COORDINATOR), "sent": sent}
    done = subprocess.run(
        bed._inside([sys.executable, "-c", code], site),
        cwd=bed.folder / (site or COORDINATOR),
        env=bed._environment(site),
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a leak was not made: {done.stderr[-2000:]}")


#: The guard refuses most of this, but what it was sent has gone over the line; what a site may write
#: to the exchange store under its own name is taken, whatever is in it.
_AT_SITE = """
import base64, gzip, hashlib, json, sys
from pathlib import Path
from urllib.parse import quote
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity.visit import Visit
told = json.load(sys.stdin)
line, stored, logged, store = told["sent"]
line, stored, logged = ({k: base64.b64decode(v) for k, v in d.items()} for d in (line, stored, logged))
visit = Visit.load(Path(told["home"]) / "private" / "coordinator.json")
backend = HttpsBackend(f"{visit.url}/exchange/v1", visit)
with visit.client() as client:
    for form, data in line.items():
        headers, body = {}, data
        if form.startswith("split"):
            body = (data[i : i + 5] for i in range(0, len(data), 5))
        if form == "content-encoding":
            headers, body = {"content-encoding": "gzip"}, gzip.compress(data)
        client.post("/exchange/v1/nothing", content=body, headers=headers)
    for data in logged.values():
        client.get("/exchange/v1/" + quote(data.decode().strip().replace("\\n", ";"), safe=""))
for number, data in enumerate(stored.values(), start=900):
    key = f"{store}/round-{number:03d}/update-{visit.site}"
    assert backend.create(key, data, hashlib.sha256(data).hexdigest()), key
"""

_AT_COORDINATOR = """
import base64, json, os, sys
from pathlib import Path
from folkmoot.params import load_params
from pipelines.coordinator.mlflow_store import connect
told = json.load(sys.stdin)
tags, files = ({k: base64.b64decode(v) for k, v in d.items()} for d in told["sent"])
client = connect(load_params("params.yaml"), Path(told["home"]))
experiment = client.search_experiments(order_by=["experiment_id DESC"])[0]
run = client.search_runs([experiment.experiment_id])[0].info.run_id
for form, data in tags.items():
    client.set_tag(run, form.replace(" ", "-"), data.decode())
for form, data in files.items():
    file = Path(told["home"]) / form.replace(" ", "-")
    file.write_bytes(data)
    client.log_artifact(run, str(file), "planted")
    file.unlink()
"""


def _through_api(bed: Testbed, run: str, xcoms: dict[str, bytes], pools: dict[str, bytes]) -> None:
    """An XCom row and a pool's description for each, by the administrator."""
    from urllib.parse import quote

    api = bed.api()
    base = f"/dags/federated_linear/dagRuns/{quote(run, safe='')}"
    for form, data in xcoms.items():
        entry = {"key": form.replace(" ", "-"), "value": data.decode()}
        api.api("POST", f"{base}/taskInstances/open/xcomEntries", json=entry)
    for form, data in pools.items():
        pool = {"name": form, "slots": 1, "description": data.decode(), "include_deferred": False}
        api.api("POST", "/pools", json=pool)
    api.close()
