"""A federation whose rows have categories, missing values and sample weights, and its pooled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import yaml

from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext
from folkmoot.wire import Artefact, decode
from pipelines.hosts.embedded import Progress
from pipelines.hosts.execute import open_context, store_of
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
from tests.trees.conftest import LEVELS, contract_of, rows_of

from .pooled import Table

SITES = ["a", "b", "c"]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Params]:
    """``mixed("model.trees.rounds=2", …)``: params of three sites with 450 rows of three classes."""
    folder = tmp_path_factory.mktemp("rows")
    contract = contract_of("multiclass").model_dump(mode="json")
    contract["columns"].append({"name": "w", "role": "weight", "bounds": [0.0, 4.0]})
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    x, y = rows_of("multiclass", 450, 1)
    frame = pd.DataFrame({"age": x[:, 0], "dose": x[:, 1]})
    for column, j, names in (("ward", 2, list("uvwxyz")), ("kind", 4, ["k0", "k1", "k2"])):
        frame[column] = [None if np.isnan(v) else names[int(v)] for v in x[:, j]]
    frame["time"] = x[:, 3]
    frame["y"] = np.array(["low", "mid", "high"])[y]
    frame["w"] = np.random.default_rng(2).uniform(0.5, 2.0, len(frame))
    frame.to_csv(folder / "rows.csv", index=False)

    def make(*overrides: str) -> Params:
        trees = {"strategy": "summed_histograms", "rounds": 2, "max_depth": 3, "max_bin": 16}
        values = {
            "federation": {"sites": SITES},
            "data": {
                "recipe": "csv",
                "path": str(folder / "rows.csv"),
                "contract": str(folder / "contract.yaml"),
            },
            "model": {"kind": "trees", "trees": trees},
            "aggregation": {"rows_limit": 4096},
            "tracking": {"enabled": False},
        }
        return parse_params(values, overrides)

    return make


def opened(params: Params, workspace: Path, run: str) -> RunContext:
    """The run, as a process that knows nothing of it opens it."""
    return open_context(run, params.federation.name, store_of(params, workspace), workspace)


def model_of(context: RunContext, key: str) -> Artefact:
    """A global model of the run."""
    return decode(context.store.get(context.key(key)), kind="model")


def pooled_rows(
    context: RunContext, members: Sequence[str] = SITES, part: Literal["train", "test"] = "train"
) -> Table:
    """The very rows that the sites train or are evaluated on, in one table."""
    sites = [load_prepared(context, SiteHome.find(site, context.workspace)) for site in members]
    x = np.concatenate([p.matrix(part) for p in sites])
    y = np.concatenate([p.labels(part) for p in sites])
    found = [p.weights(part) for p in sites]
    weights = None if found[0] is None else np.concatenate([np.asarray(w) for w in found])
    ends = np.cumsum([0, *(p.rows[part] for p in sites)])
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    levels = LEVELS if len(LEVELS) == x.shape[1] else (0,) * x.shape[1]
    return Table(x, y, weights, levels, parts)


class Away(Progress):
    """Takes a site's settings away after one round and brings them back after another."""

    def __init__(self, workspace: Path, site: str, first: int, last: int) -> None:
        self.file = workspace / "sites" / site / "site.toml"
        self.first, self.last, self.said = first, last, list[str]()
        super().__init__(say=self.said.append, round=self.after)

    def after(self, number: int, rounds: int, record: dict[str, Any]) -> None:
        away = self.file.with_suffix(".away")
        if number == self.first:
            self.file.rename(away)
        if number == self.last:
            away.rename(self.file)


def with_two(text: str) -> str:
    """site.toml of a steward who sums with one other site."""
    lines = [line for line in text.splitlines() if not line.startswith("minimum_contributors")]
    at = lines.index("[permissions]") + 1
    return "\n".join([*lines[:at], "minimum_contributors = 2", *lines[at:]]) + "\n"


def stored(workspace: Path, site: str) -> dict[str, int]:
    """Names and inodes of a site's stored releases."""
    folder = SiteHome.find(site, workspace).releases
    return {p.name: p.stat().st_ino for p in folder.iterdir() if not p.name.startswith(".")}
