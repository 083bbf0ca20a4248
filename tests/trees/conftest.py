"""Rows of every kind (numbers, categories, missing values, weights) and sites that hold them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.exchange import ExchangeStore
from folkmoot.features import feature_space
from folkmoot.identity import Roster, public_text
from folkmoot.params import parse_params
from folkmoot.plan import RunContext
from folkmoot.updates import Part, ReleasedUpdate, open_released
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared
from site_tasks.privatise import privatise
from site_tasks.seal import seal
from site_tasks.settings import SiteSettings, save_settings

KEYS = {name: Ed25519PrivateKey.generate() for name in ("a", "b", "c", "d")}
TYPES = ("q", "q", "c", "q", "c")
LEVELS = (0, 0, 6, 0, 3)
Release = Callable[..., ReleasedUpdate]


def contract_of(task: str) -> Contract:
    """Three numbers and two categories, any of which may be missing."""
    number = {"bounds": [-10.0, 10.0], "missing": True}
    columns: list[dict[str, Any]] = [
        {"name": "age", **number},
        {"name": "dose", **number},
        {"name": "ward", "type": "category", "categories": list("uvwxyz"), "missing": True},
        {"name": "time", **number},
        {"name": "kind", "type": "category", "categories": ["k0", "k1", "k2"], "missing": True},
    ]
    label: dict[str, Any] = {"name": "y", "role": "label"}
    if task == "regression":
        label |= {"bounds": [-50.0, 50.0]}
    else:
        classes = ["no", "yes"] if task == "binary" else ["low", "mid", "high"]
        label |= {"type": "category", "categories": classes}
    return Contract.model_validate({"name": "t", "task": task, "columns": [*columns, label]})


def rows_of(task: str, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Encoded features (missing is NaN) and labels that depend on all of them."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(n, 5)), -9, 9)
    x[:, 2] = rng.integers(0, 6, n)
    x[:, 4] = rng.integers(0, 3, n)
    signal = x[:, 0] * x[:, 1] + 2.0 * np.isin(x[:, 2], [1, 4]) + x[:, 3] - (x[:, 4] == 2)
    signal += 0.3 * rng.normal(size=n)
    x[rng.random(x.shape) < 0.1] = np.nan
    if task == "regression":
        return x, signal
    if task == "binary":
        return x, (signal > 0.7).astype(np.int64)
    return x, np.digitize(signal, [0.0, 1.5]).astype(np.int64)


@dataclass
class World:
    """A run of the sites a, b, c, d, and their rows."""

    context: RunContext
    homes: dict[str, SiteHome]
    prepared: dict[str, Prepared]

    def fresh(self) -> RunContext:
        """The same run in another process: nothing is remembered."""
        old = self.context
        return RunContext(old.run, old.params, old.contract, old.roster, old.store, old.workspace)


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """``world("binary", "model.trees.eta=0.5", rows=300, weighted=False)``."""

    def make(task: str, *overrides: str, rows: int = 300, weighted: bool = False) -> World:
        contract = contract_of(task)
        settings = parse_params(
            {"federation": {"sites": sorted(KEYS)}, "model": {"kind": "trees"}}, overrides
        )
        roster = Roster({name: public_text(key) for name, key in KEYS.items()})
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        store = ExchangeStore(folder / "exchange")
        context = RunContext("run", settings, contract, roster, store, folder)
        homes, prepared = {}, {}
        for number, site in enumerate(sorted(KEYS)):
            root = folder / "sites" / site
            (root / "private" / "work").mkdir(parents=True)
            save_settings(SiteSettings(name=site), root / "site.toml")
            homes[site] = SiteHome(root)
            prepared[site] = _prepare(context, root, task, rows + 40 * number, number, weighted)
        return World(context, homes, prepared)

    return make


def _prepare(
    context: RunContext, root: Path, task: str, n: int, seed: int, weighted: bool
) -> Prepared:
    folder = root / "private" / "work" / "encoded"
    folder.mkdir()
    counts = {"train": n, "test": n // 3}
    for part, count in counts.items():
        x, y = rows_of(task, count, 10 * seed + (part == "test"))
        np.save(folder / f"{part}.npy", x)
        np.save(folder / f"{part}-labels.npy", y)
        if weighted:
            weights = np.random.default_rng(seed).integers(1, 4, count).astype(np.float64)
            np.save(folder / f"{part}-weights.npy", weights)
    space = feature_space(context.contract, context.params.anonymisation, "trees")
    return Prepared(space, counts, f"{seed:064d}", f"{seed + 100:064d}", 1, folder)


@pytest.fixture
def release() -> Release:
    """``release(context, site, round, update=…, …)``: signed, then opened by the coordinator."""

    def make(context: RunContext, site: str, round: int, **parts: Part) -> ReleasedUpdate:
        header: Mapping[str, Any] = {
            "federation": context.federation,
            "run": context.run,
            "round": round,
            "site": site,
            "step": f"round-{round:03d}/train/{site}",
        }
        private = privatise(parts, context.params.privacy)
        data = seal({**header, "receipt": {}, "dataset": "f" * 64}, private, KEYS[site])
        return open_released(data, context.roster, header)

    return make
