"""What anonymisation costs a federation: Adult over sites, k = 10, under each choice of one space.

Every model is tested on the 15,060 raw complete test rows, quasi-identifiers only, through the
schema that the registered model carries.  First pooled training over rows that each site recoded by
itself, then the real thing: federated bagging, in this process, with everything a site does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.report import row
from folkmoot.agreement import settled
from folkmoot.contract import Contract, load_contract
from folkmoot.features import encode_frame, encode_label
from folkmoot.params import Anonymisation, Params, parse_params
from folkmoot.plan import keys

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
#: ARX's hierarchies; education-num takes education's.
FILES = {
    "workclass": "workclass",
    "marital_status": "marital-status",
    "occupation": "occupation",
    "race": "race",
    "sex": "sex",
    "native_country": "native-country",
}
ROUNDS = {"num_boost_round": 100}
TREES = {"objective": "binary:logistic", "eta": 0.1, "max_depth": 6, "nthread": 1, "verbosity": 0}


def adult(folder: Path) -> tuple[pd.DataFrame, Contract]:
    """Complete rows, with the split as published, and the contract over eight quasi-identifiers."""
    from pipelines.recipes import open_rows

    rows, contract = open_rows(parse_params({"data": {"recipe": "adult"}}).data)
    frame = rows.frame()
    frame = frame[(frame != "?").all(axis=1)].dropna().reset_index(drop=True)
    source = Path(os.environ["FOLKMOOT_DATA"]) / "adult" / "hierarchies"
    plain = {column.name: column for column in contract.columns}
    numbers = _education(frame, source)
    columns: list[dict[str, Any]] = [
        {
            "name": "age",
            "role": "quasi_identifier",
            "type": "integer",
            "bounds": [1, 100],
            "hierarchy": {"file": str(source / "adult_hierarchy_age.csv")},
        },
        {
            "name": "education_num",
            "role": "quasi_identifier",
            "type": "integer",
            "categories": [line[0] for line in numbers],
            "hierarchy": {"table": numbers},
        },
    ]
    for name, file in FILES.items():
        columns.append(
            {
                "name": name,
                "role": "quasi_identifier",
                "type": "category",
                "categories": plain[name].categories,
                "hierarchy": {"file": str(source / f"adult_hierarchy_{file}.csv")},
            }
        )
    columns.append(plain["income"].model_dump(mode="json"))
    path = folder / "contract.yaml"
    text = {"name": "adult-8", "task": "binary", "columns": columns}
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    made = load_contract(path)
    return frame[[*(c.name for c in made.columns), "split"]], made


def numeric(contract: Contract) -> Contract:
    """Education as the number it is, for choice (c) and for raw rows: cells become means."""
    columns = [
        column.model_copy(update={"categories": None, "bounds": [1.0, 16.0], "hierarchy": None})
        if column.name == "education_num"
        else column
        for column in contract.columns
    ]
    return contract.model_copy(update={"columns": columns})


def _education(frame: pd.DataFrame, source: Path) -> list[list[str]]:
    """ARX's hierarchy of education over its numbers."""
    number = dict(zip(frame["education"], frame["education_num"].astype(str), strict=True))
    text = (source / "adult_hierarchy_education.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(";") for line in text if line]
    return sorted(([number[r[0]], *r[1:]] for r in rows), key=lambda r: int(r[0]))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


# Pooled training over rows that each site recoded by itself -----------------------------------------


def recoded(frame: pd.DataFrame, contract: Contract, folder: Path, k: int) -> pd.DataFrame:
    """A site's rows under choice (c)."""
    from site_tasks.anonymise.job import Job
    from site_tasks.anonymise.table import anonymise_table

    source, target = folder / "site.parquet", folder / "recoded.parquet"
    frame.to_parquet(source, index=False)
    settings = Anonymisation(recoding="local", k=k)
    anonymise_table(Job(source, target, contract, settings, bytes(32), numbered=False))
    return pd.read_parquet(target)


def pooled(frame: pd.DataFrame, contract: Contract, sites: int, folder: Path, k: int) -> float:
    """XGBoost over the union of what each site recoded; tested on raw rows in the same space."""
    import xgboost

    contract = numeric(contract)
    settings = Anonymisation(recoding="local", k=max(k, 2))
    train = frame[frame["split"] == "train"].drop(columns="split").reset_index(drop=True)
    test = frame[frame["split"] == "test"].drop(columns="split")
    parts = np.random.default_rng(0).permutation(len(train)) % sites
    tables = [train[parts == site].reset_index(drop=True) for site in range(sites)]
    if k > 1:
        tables = [recoded(table, contract, folder, k) for table in tables]
    x = np.concatenate([encode_frame(t, contract, settings, "trees") for t in tables])
    y = np.concatenate([encode_label(t["income"], contract) for t in tables])
    model = xgboost.train(TREES, xgboost.DMatrix(x, y), **ROUNDS)
    raw = encode_frame(test, contract, settings, "trees")
    return auc(model.predict(xgboost.DMatrix(raw)), encode_label(test["income"], contract))


# Two releases, compared --------------------------------------------------------------------------------


def exposed(frame: pd.DataFrame, contract: Contract, folder: Path, series: Path | None) -> float:
    """Share of people below k = 10 under the intersection of two releases, 1 % of rows appended."""
    from site_tasks.anonymise.job import Job
    from site_tasks.anonymise.series import intersections
    from site_tasks.anonymise.table import anonymise_table
    from site_tasks.table import ROW

    contract = numeric(contract)
    quasi = [column.name for column in contract.with_role("quasi_identifier")]
    rows = frame[frame["split"] == "train"].drop(columns="split").reset_index(drop=True)
    releases = []
    for n in (int(len(rows) / 1.01), len(rows)):
        source, target = folder / "version.parquet", folder / "release.parquet"
        rows[:n].to_parquet(source, index=False)
        settings = Anonymisation(recoding="local", k=10)
        anonymise_table(Job(source, target, contract, settings, bytes(32), f"v{n}", series))
        table = pd.read_parquet(target)
        cells = ["|".join(map(str, cell)) for cell in table[quasi].itertuples(index=False)]
        seen = np.full(len(rows), -1)
        seen[table[ROW]] = pd.factorize(np.array(cells, dtype=object))[0]
        releases.append(seen)
    found = intersections(*releases)
    return float((found[found > 0] < 10).mean())


# Federations ------------------------------------------------------------------------------------------


def federated(
    frame: pd.DataFrame, contract: Contract, folder: Path, name: str, values: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """AUC on raw test rows of a federated run, and what was settled on."""
    from folkmoot.models.predictor import Predictor
    from folkmoot.wire import decode
    from pipelines.hosts.embedded import run
    from pipelines.hosts.execute import open_context, store_of

    place = folder / name
    place.mkdir()
    contract = numeric(contract) if values.get("recoding") in {None, "local"} else contract
    (place / "contract.yaml").write_text(
        yaml.safe_dump(contract.model_dump(mode="json")), encoding="utf-8"
    )
    train = frame[frame["split"] == "train"].drop(columns="split")
    train.to_parquet(place / "rows.parquet", index=False)
    params: Params = parse_params(
        {
            "federation": {"name": name, "sites": [f"site-{c}" for c in "abcd"]},
            "data": {
                "recipe": "parquet",
                "path": str(place / "rows.parquet"),
                "contract": str(place / "contract.yaml"),
                "holdout": {"fraction": 0.05},
            },
            "anonymisation": values,
            "model": {"kind": "trees", "trees": {"rounds": 25, "trees_per_round": 4, "eta": 0.1}},
            "aggregation": {"evaluate_every": 0},
            "tracking": {"enabled": False},
        }
    )
    result = run(params, workspace=place / "work")
    store = store_of(params, place / "work")
    context = settled(open_context(result["run"], name, store, place / "work"))
    last = store.get(context.key(keys.model(result["rounds"])))
    model = Predictor(decode(last, kind="model"), context.contract, context.params.anonymisation)
    test = frame[frame["split"] == "test"].drop(columns="split")
    scores = model.predict(test)["probability_>50K"].to_numpy()
    return auc(scores, encode_label(test["income"], contract)), context.params.anonymisation.chosen


def choices() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Runs to make: name, what it is, section ``anonymisation``."""
    yield "raw", "no anonymisation", {}
    public = {
        "age": 3,
        "education_num": 1,
        "workclass": 1,
        "marital_status": 0,
        "occupation": 1,
        "race": 1,
        "sex": 0,
        "native_country": 2,
    }
    free = {"k": 10, "suppression_limit": 1.0}
    yield "public", "(a) public schema", {"recoding": "public", "levels": public, **free}
    yield "agreed", "(b) agreed schema", {"recoding": "agreed", **free}
    yield "local", "(c) local recoding", {"recoding": "local", "k": 10}


def main() -> None:
    if BESIDE.is_dir():
        os.environ.setdefault("FOLKMOOT_DATA", str(BESIDE))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame, contract = adult(folder)
        raw = pooled(frame, contract, 1, folder, 1)
        central = pooled(frame, contract, 1, folder, 10)
        sys.stdout.write(f"raw rows, pooled: {raw:.4f}; one table, k = 10: {central:.4f}\n")
        for sites, less in ((4, 0.003), (20, 0.012)):
            found = pooled(frame, contract, sites, folder, 10)
            row(
                f"adult, {sites} sites, k = 10, choice (c): XGBoost AUC of pooled recoded rows "
                f"(central {central:.4f}, raw {raw:.4f})",
                f"{found:.4f} ({found - central:+.4f})",
                f"≥ central - {less}",
                met=found >= central - less,
            )
        naive = exposed(frame, contract, folder, None)
        left = exposed(frame, contract, folder, folder / "series.npz")
        row(
            "adult, k = 10, local recoding, 1 % of rows appended: people below k under the "
            f"intersection of both releases (each by itself: {naive:.1%})",
            f"{left:.1%}",
            "0",
            met=left == 0,
        )
        plain = 0.0
        for key, what, values in choices():
            found, levels = federated(frame, contract, folder, key, values)
            plain = plain or found
            shown = " ".join(f"{n} {level}" for n, level in levels.items() if values)
            row(
                f"adult, 4 sites, k = 10, federated bagging: AUC on raw rows, {what}"
                + (f" [{shown}]" if shown else ""),
                f"{found:.4f} ({found - plain:+.4f})",
                "",
                met=None,
            )


if __name__ == "__main__":
    main()
