"""Privately trained trees on Adult, in the setting of :mod:`benchmarks.private_linear`.

All 32,561 rows of ``adult.data``, 22,792 of them for training, dealt to four sites; five splits, each
with fresh noise; delta 1e-5, add-or-remove, unit record.  What is fixed (clip norm, L2 of the noise,
share of the labels, depth, trees, rounds, eta) was chosen on ``adult.test``, whose rows take no part
here, and is the same at every epsilon.  AUC is measured on the test rows themselves, by the predictor
that a registered model loads: an XGBoost booster.

Noise ``distributed`` runs without secure sums here (``privacy.simulate_sums``): the sums are the same
integers.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.private_linear import BESIDE, SEEDS, Table, adult_table, auc, tell, within_budget
from benchmarks.report import row
from folkmoot.params import parse_params

#: 150 random trees of one feature: one round counts the labels, 25 grow six trees each.
RANDOM = {
    "strategy": "private_trees",
    "rounds": 26,
    "trees_per_round": 6,
    "max_depth": 4,
    "eta": 0.5,
}
ADDITIVE = {"strategy": "private_additive", "rounds": 12, "bins": 8}
FOREST = {"strategy": "local_forests", "rounds": 1, "trees_per_round": 10, "max_depth": 5}


def trained(table: Table, trees: dict[str, Any], **privacy: Any) -> Any:
    """The predictor of one run on a table."""
    from folkmoot.models.predictor import Predictor
    from folkmoot.wire import decode
    from pipelines.hosts.embedded import run
    from pipelines.hosts.execute import open_context, store_of

    mechanism: dict[str, Any] = {"mechanism": "diffprivlib"}
    if trees["strategy"] != "local_forests":
        distributed = privacy.get("noise", "distributed") == "distributed"
        mechanism = {
            "mechanism": "gaussian",
            "clipping": "record",
            "noise": "distributed",
            "simulate_sums": distributed,
            "rows": 22_792,
        }
    params = parse_params(
        {
            "federation": {"name": "bench", "sites": table.sites},
            "data": {**table.data, "scaling": "bounds"},
            "model": {"kind": "trees", "trees": trees},
            "privacy": {**mechanism, "delta": 1e-5, **privacy},
            "aggregation": {"weighting": "uniform", "evaluate_every": 0},
            "tracking": {"enabled": False},
        }
    )
    store = store_of(params, table.workspace)
    taken = len(store.list("bench/runs"))
    result = run(params, run=f"run-{taken}", workspace=table.workspace)
    within_budget(result, params)
    context = open_context(result["run"], "bench", store, table.workspace)
    model = decode(store.get(context.key(result["model"]), result["model_digest"]))
    return Predictor(model, table.contract, params.anonymisation)


def main(seeds: int = SEEDS) -> None:
    if BESIDE.is_dir():
        os.environ.setdefault("FOLKMOOT_DATA", str(BESIDE))
    with tempfile.TemporaryDirectory() as name:
        tables = [adult_table(Path(name), seed) for seed in range(seeds)]
        budgets = (("0.1", 0.1), ("0.5", 0.5), ("1", 1.0), ("2", 2.0))
        plans: list[tuple[str, dict[str, Any], str, tuple[float, ...]]] = [
            ("150 random trees in 26 rounds", RANDOM, "distributed", (0.875, 0.898, 0.904, 0.908)),
            (
                "additive booster in 12 rounds",
                ADDITIVE,
                "distributed",
                (0.860, 0.895, 0.903, 0.906),
            ),
            ("150 random trees, noise site", RANDOM, "site", (0.0, 0.0, 0.893, 0.0)),
        ]
        for what, trees, noise, must in plans:
            found = []
            for (budget, epsilon), least in zip(budgets, must, strict=True):
                if least:
                    values = [
                        auc(trained(table, trees, epsilon=epsilon, noise=noise), table.held_out())
                        for table in tables
                    ]
                    found.append((budget, values, least))
            tell(f"Adult, private trees: {what}, AUC", found)
        values = [auc(trained(table, FOREST, epsilon=1.0), table.held_out()) for table in tables]
        row(
            "Adult, diffprivlib's forests at each site, combined by votes, ε = 1 (for comparison)",
            f"{np.mean(values):.4f}",
            "about 0.79",
            met=None,
        )


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
