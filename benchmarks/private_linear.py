"""Privately trained linear models on Adult, breast_cancer, heart and a synthetic regression.

Adult: the 32,561 rows of ``adult.data``, 22,792 of them for training, dealt to four sites; five
splits, each with fresh noise; delta 1e-5, add-or-remove, unit record.  What the planner fixes
(shares of the budget, norms, steps) was chosen on ``adult.test``, whose rows take no part here, and
on splits inside the training rows of the other tables.  AUC and accuracy are measured on the test
rows themselves, from contract columns, by the predictor that a registered model loads; nothing of
that leaves a site in the run, whose plan claims privacy.

Noise ``distributed`` runs without secure sums here (``privacy.simulate_sums``): the sums are the
same integers.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import row
from folkmoot.params import parse_params
from folkmoot.privacy.accountant import epsilon

SEEDS = 5
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
HOSPITALS = ["cleveland", "hungarian", "switzerland", "va"]
SITES = ["site-a", "site-b", "site-c", "site-d"]


class Table:
    """One table dealt to sites, and all its rows for measuring."""

    def __init__(self, data: dict[str, Any], sites: list[str], workspace: Path) -> None:
        from pipelines.recipes import open_rows

        self.data, self.sites, self.workspace = data, sites, workspace
        rows, self.contract = open_rows(parse_params({"data": data}).data)
        self.frame = rows.frame()

    def run(self, **wanted: Any) -> tuple[Any, Any]:
        """Train once; the predictor and the result."""
        from folkmoot.models.predictor import Predictor
        from folkmoot.wire import decode
        from pipelines.hosts.embedded import run
        from pipelines.hosts.execute import open_context, store_of

        linear = {"strategy": "private", **wanted.pop("linear")}
        distributed = wanted.get("noise", "distributed") == "distributed"
        privacy = {
            "mechanism": "gaussian",
            "clipping": "record",
            "noise": "distributed",
            "simulate_sums": distributed,
            **wanted,
        }
        params = parse_params(
            {
                "federation": {"name": "bench", "sites": self.sites},
                "data": {**self.data, "scaling": "bounds"},
                "model": {"linear": linear},
                "privacy": privacy,
                "aggregation": {"weighting": "uniform", "evaluate_every": 0},
                "tracking": {"enabled": False},
            }
        )
        store = store_of(params, self.workspace)
        taken = len(store.list("bench/runs"))
        result = run(params, run=f"run-{taken}", workspace=self.workspace)
        for site in result["privacy"].values():
            events = [copy.copy(event) for event in site["events"]]
            counted = [{k: v for k, v in e.items() if k != "count"} for e in events]
            flat = [c for c, e in zip(counted, events, strict=True) for _ in range(e["count"])]
            if epsilon(flat, params.privacy.delta)[0] > float(params.privacy.epsilon or 0):
                raise RuntimeError("a run spent more than its budget")
        context = open_context(result["run"], "bench", store, self.workspace)
        model = decode(store.get(context.key(result["model"]), result["model_digest"]))
        return Predictor(model, self.contract, params.anonymisation), result

    def held_out(self) -> Any:
        """Test rows of a table with a split column."""
        return self.frame[self.frame["split"] == "test"]


def auc(predictor: Any, frame: Any) -> float:
    from sklearn.metrics import roc_auc_score

    positive = predictor.contract.classes[1]
    score = predictor.predict(frame)[f"probability_{positive}"]
    truth = frame[predictor.contract.label.name].astype(str) == positive
    return float(roc_auc_score(truth, score))


def tell(what: str, values: Iterable[tuple[str, list[float], float]], more: str = "") -> None:
    """One figure: the means over seeds at each budget, against what each must reach."""
    found = list(values)
    measured = " / ".join(f"{np.mean(v):.4f}" for _, v, _ in found)
    spread = max(float(np.std(v)) for _, v, _ in found)
    row(
        f"{what}, ε = {' / '.join(name for name, _, _ in found)}",
        f"{measured} (deviation over seeds up to {spread:.4f}){more}",
        "≥ " + " / ".join(f"{must}" for _, _, must in found),
        met=all(float(np.mean(v)) >= must for _, v, must in found),
    )


def adult(folder: Path, seeds: int) -> None:
    tables = [_adult(folder, seed) for seed in range(seeds)]
    budgets = (("0.5", 0.5), ("1", 1.0), ("3", 3.0))
    plans: list[tuple[str, dict[str, Any], str, tuple[float, ...]]] = [
        ("logistic AUC in 50 rounds", {"rounds": 50}, "distributed", (0.891, 0.894, 0.896)),
        ("logistic AUC in 12 rounds", {"rounds": 12}, "distributed", (0.888, 0.892, 0.894)),
        ("logistic AUC in 6 rounds", {"rounds": 6}, "distributed", (0.886, 0.890, 0.892)),
        (
            "additive logistic on public bins, 12 rounds",
            {"rounds": 12, "basis": "additive"},
            "distributed",
            (0.895, 0.903, 0.906),
        ),
        ("logistic AUC, noise site, 12 rounds", {"rounds": 12}, "site", (0.0, 0.878, 0.0)),
    ]
    for what, linear, noise, must in plans:
        found = []
        for (name, budget), least in zip(budgets, must, strict=True):
            if not least:
                continue
            values = []
            for table in tables:
                predictor, _ = table.run(
                    linear=linear, noise=noise, epsilon=budget, delta=1e-5, rows=22_792
                )
                values.append(auc(predictor, table.held_out()))
            found.append((name, values, least))
        tell(f"Adult, {what}", found)


def _adult(folder: Path, seed: int) -> Table:
    import yaml

    import folkmoot

    here = Path(folkmoot.__file__).parent / "contracts" / "adult.yaml"
    contract = yaml.safe_load(here.read_text(encoding="utf-8"))
    contract["name"] = f"adult-{seed}"
    path = folder / f"adult-{seed}.csv"
    from pipelines.recipes import load

    data = parse_params({"data": {"recipe": "adult"}}).data
    frame, _ = load("adult", data)
    frame = frame[frame["split"] == "train"].reset_index(drop=True)  # adult.data
    order = np.random.default_rng([seed, 1]).permutation(len(frame))
    frame["split"] = "test"
    frame.loc[order[:22_792], "split"] = "train"
    frame.to_csv(path, index=False)
    saved = folder / f"adult-{seed}.yaml"
    saved.write_text(yaml.safe_dump(contract), encoding="utf-8")
    return Table(
        {"recipe": "csv", "path": str(path), "contract": str(saved), "partition": {"seed": seed}},
        SITES,
        folder / f"adult-{seed}",
    )


def main(seeds: int = SEEDS) -> None:
    if BESIDE.is_dir():
        os.environ.setdefault("FOLKMOOT_DATA", str(BESIDE))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adult(folder, seeds)


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
