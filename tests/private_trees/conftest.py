"""A table of every kind of column, as contract and rows, and settings that train trees on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.params import Params, parse_params


def contract_of(task: str) -> Contract:
    """Numbers, a boolean and categories; all but one may be missing."""
    columns: list[dict[str, Any]] = [
        {"name": "age", "bounds": [0.0, 100.0]},
        {"name": "gain", "bounds": [0.0, 99999.0], "missing": True},
        {"name": "ward", "type": "category", "categories": list("uvwxyz"), "missing": True},
        {"name": "old", "type": "boolean", "missing": True},
        {"name": "kind", "type": "category", "categories": ["k0", "k1"]},
    ]
    label: dict[str, Any] = {"name": "y", "role": "label"}
    if task == "regression":
        label |= {"bounds": [-50.0, 50.0]}
    else:
        classes = ["no", "yes"] if task == "binary" else ["low", "mid", "high"]
        label |= {"type": "category", "categories": classes}
    return Contract.model_validate({"name": "t", "task": task, "columns": [*columns, label]})


def rows_of(n: int, seed: int) -> NDArray[np.float64]:
    """Encoded for trees, as the contract's columns are."""
    rng = np.random.default_rng(seed)
    x = np.column_stack(
        [
            rng.uniform(0, 100, n),
            rng.uniform(0, 99999, n) * (rng.random(n) < 0.4),
            rng.integers(0, 6, n),
            rng.integers(0, 2, n),
            rng.integers(0, 2, n),
        ]
    )
    for j in (1, 2, 3):
        x[rng.random(n) < 0.15, j] = np.nan
    return x


def settings(*overrides: str) -> Params:
    """Three sites and random trees under noise of their own."""
    return parse_params(
        {
            "federation": {"sites": ["site-a", "site-b", "site-c"]},
            "data": {
                "recipe": "synthetic",
                "rows": 3000,
                "columns": 4,
                "scaling": "bounds",
                "holdout": {"by": "content"},
            },
            "model": {
                "kind": "trees",
                "trees": {
                    "strategy": "private_trees",
                    "rounds": 5,
                    "trees_per_round": 4,
                    "max_depth": 3,
                },
            },
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "epsilon": 8.0,
                "rows": 2200,
            },
            "aggregation": {"weighting": "uniform", "evaluate_every": 0},
            "tracking": {"enabled": False},
        },
        overrides,
    )
