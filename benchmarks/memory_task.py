"""Tasks of ``benchmarks.memory``, each in its own process: make a site, open a run, do a step."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = 20
SITE = "site-a"
NUMBERS = [f"x{i:02d}" for i in range(COLUMNS - 2)]
CONTRACT: dict[str, Any] = {
    "name": "memory",
    "task": "binary",
    "columns": [
        {"name": "id", "role": "direct_identifier", "type": "text"},
        {
            "name": "age",
            "role": "quasi_identifier",
            "type": "integer",
            "bounds": [0, 120],
            "hierarchy": {"widths": [5, 10]},
        },
        {"name": "sex", "role": "quasi_identifier", "type": "category", "categories": ["f", "m"]},
        *({"name": name, "bounds": [-8, 8]} for name in NUMBERS),
        {"name": "y", "role": "label", "type": "integer", "categories": ["0", "1"]},
    ],
}


def make(folder: Path, rows: int) -> None:
    """A site whose dataset is under DVC."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from folkmoot.identity import Roster, public_text
    from site_tasks.dataset import add
    from site_tasks.home import SiteHome
    from site_tasks.settings import Permissions
    from site_tasks.table import CHUNK, write_table

    rng = np.random.default_rng(0)
    weights = rng.normal(size=len(NUMBERS)) / 4

    def frames() -> Iterator[pd.DataFrame]:
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            x = np.clip(rng.normal(size=(n, len(NUMBERS))), -8, 8)
            frame = pd.DataFrame(x, columns=NUMBERS)
            frame.insert(0, "id", [f"{i:010d}" for i in range(start, start + n)])
            frame.insert(1, "age", rng.integers(18, 91, n))
            frame.insert(2, "sex", np.array(["f", "m"])[rng.integers(0, 2, n)])
            frame["y"] = (rng.random(n) < 1 / (1 + np.exp(-(x @ weights)))).astype(np.int64)
            yield frame

    fields = [("id", pa.string()), ("age", pa.int64()), ("sex", pa.string())]
    fields += [(name, pa.float64()) for name in NUMBERS] + [("y", pa.int64())]
    write_table(folder / "rows.parquet", pa.schema(fields), frames())
    home = SiteHome.create(
        folder / "sites" / SITE,
        SITE,
        federations=["memory"],
        permissions=Permissions(minimum_sites=1),
    )
    add(home, folder / "rows.parquet", "Add the rows")
    (folder / "rows.parquet").unlink()
    Roster({SITE: public_text(home.key())}).save(folder / "roster.toml")


def open_kind(folder: Path, kind: str) -> None:
    """Open a run of one round; prints the names of its steps."""
    from folkmoot.contract import Contract
    from folkmoot.identity import Roster
    from folkmoot.params import parse_params
    from pipelines.coordinator.open_round import open_run
    from pipelines.hosts.execute import store_of
    from pipelines.plans import plan_of

    params = parse_params(
        {
            "federation": {"name": "memory", "sites": [SITE]},
            "data": {"precision": "float32"},
            "anonymisation": {"k": 5, "levels": {"age": 2}},
            "model": {"kind": kind, "linear": {"rounds": 1}, "trees": {"rounds": 1}},
        }
    )
    contract = Contract.model_validate(CONTRACT)
    roster = Roster.load(folder / "roster.toml")
    open_run(params, contract, roster, kind, store_of(params, folder), folder)
    steps = [step.name for step in plan_of(params, contract)]
    sys.stdout.write(json.dumps([name for name in steps if name != "final/conclude"]) + "\n")


def one_step(folder: Path, kind: str, name: str) -> None:
    """Execute a step; prints the peak resident set of this process in bytes."""
    from folkmoot.errors import RoundError
    from folkmoot.exchange import ExchangeStore
    from pipelines.hosts.execute import execute, open_context
    from pipelines.plans import plan_of

    context = open_context(kind, "memory", ExchangeStore(folder / "exchange"), folder)
    try:
        execute(plan_of(context.params, context.contract).step(name), context)
    except RoundError:
        sys.stderr.write((folder / "sites" / SITE / "private" / "site.log").read_text())
        raise
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}\n")


if __name__ == "__main__":
    task, folder, *rest = sys.argv[1:]
    if task == "make":
        make(Path(folder), int(rest[0]))
    elif task == "open":
        open_kind(Path(folder), *rest)
    else:
        one_step(Path(folder), *rest)
