"""Released updates for tests of the coordinator: made the way that sites make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.contract import Contract
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster, public_text
from folkmoot.params import parse_params
from folkmoot.plan import RunContext
from folkmoot.updates import LinearUpdate, ReleasedUpdate, Statistics, open_released
from site_tasks.privatise import privatise
from site_tasks.seal import seal

KEYS = {name: Ed25519PrivateKey.generate() for name in ("a", "b", "c", "d")}
Make = Callable[..., RunContext]
Release = Callable[..., ReleasedUpdate]


@pytest.fixture
def contract() -> Callable[..., Contract]:
    """``contract(task, features, classes)``."""
    return _contract


def _contract(task: str, features: int, classes: int = 2) -> Contract:
    """Numbers between -10 and 30; classes c0, c1 …"""
    columns: list[dict[str, Any]] = [
        {"name": f"x{j}", "bounds": [-10.0, 30.0]} for j in range(features)
    ]
    if task == "regression":
        columns.append({"name": "y", "role": "label", "bounds": [-1000.0, 1000.0]})
    else:
        names = [f"c{k}" for k in range(classes)]
        columns.append({"name": "y", "role": "label", "type": "category", "categories": names})
    return Contract.model_validate({"name": "test", "task": task, "columns": columns})


@pytest.fixture
def context(tmp_path: Path) -> Make:
    """``context(contract, "model.linear.l2=0.5", …)``: a run of the sites a, b, c, d."""

    def make(contract: Contract, *overrides: str) -> RunContext:
        params = parse_params({"federation": {"sites": sorted(KEYS)}}, overrides)
        roster = Roster({name: public_text(key) for name, key in KEYS.items()})
        return RunContext("run", params, contract, roster, ExchangeStore(tmp_path), tmp_path)

    return make


@pytest.fixture
def release() -> Release:
    """``release(context, site, round, arrays, weight)``: signed, then opened by the coordinator."""

    def make(
        context: RunContext,
        site: str,
        round: int,
        arrays: Mapping[str, np.ndarray],
        weight: float = 1.0,
        part: str = "update",
    ) -> ReleasedUpdate:
        content = Statistics(arrays) if part == "statistics" else LinearUpdate(dict(arrays), weight)
        header = {
            "federation": context.federation,
            "run": context.run,
            "round": round,
            "site": site,
            "step": f"round-{round:03d}/train/{site}",
        }
        private = privatise({part: content}, context.params.privacy)
        data = seal({**header, "receipt": {}, "dataset": "f" * 64}, private, KEYS[site])
        return open_released(data, context.roster, header)

    return make
