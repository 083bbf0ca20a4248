"""Sites whose tables differ, and messages of another version: the pooled model, or a clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from folkmoot.errors import DataError, ProtocolError
from folkmoot.features import encode_frame
from folkmoot.models.trees import tree_bytes
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.histograms import bin_rows, missing_code
from folkmoot.wire import Artefact
from pipelines.hosts.embedded import run
from site_tasks import train_histograms
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
from tests.trees.conftest import contract_of, rows_of

from .conftest import model_of, opened, pooled_rows
from .pooled import pooled, same_structure

Workspace = Callable[..., Path]
SITES = ["a", "b", "c"]


def uneven(folder: Path, **label: str) -> Params:
    """``dose`` is absent at b and constant at c, ward ``z`` is seen at a alone."""
    contract = contract_of("binary").model_dump(mode="json", exclude_defaults=True)
    contract["columns"].append({"name": "place", "type": "category", "categories": SITES,
                                "role": "dropped"})  # fmt: skip
    x, y = rows_of("binary", 450, 3)
    frame = pd.DataFrame({"age": x[:, 0], "dose": x[:, 1], "time": x[:, 3]})
    for column, j, names in (("ward", 2, list("uvwxyz")), ("kind", 4, ["k0", "k1", "k2"])):
        frame[column] = [None if np.isnan(v) else names[int(v)] for v in x[:, j]]
    frame["y"] = np.array(["no", "yes"])[y]
    frame["place"] = np.resize(SITES, len(frame))
    frame.loc[frame["place"] == "b", "dose"] = np.nan
    frame.loc[frame["place"] == "c", "dose"] = 1.5
    frame.loc[(frame["place"] != "a") & (frame["ward"] == "z"), "ward"] = "u"
    for place, value in label.items():
        frame.loc[frame.index[frame["place"] == place][:3], "y"] = value
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    frame.to_csv(folder / "rows.csv", index=False)
    data = {"path": str(folder / "rows.csv"), "contract": str(folder / "contract.yaml")}
    trees = {"strategy": "summed_histograms", "rounds": 2, "max_depth": 4, "max_bin": 16,
             "min_child_weight": 0.1}  # fmt: skip
    return parse_params(
        {
            "federation": {"sites": SITES},
            "data": {"recipe": "csv", "partition": {"kind": "natural", "column": "place"}, **data},
            "model": {"kind": "trees", "trees": trees},
            "aggregation": {"rows_limit": 4096, "protection": "masks"},
            "tracking": {"enabled": False},
        }
    )


def test_features_that_sites_lack_and_categories_that_one_has(
    workspace_of: Workspace, tmp_path: Path
) -> None:
    """The model is the pooled one, and an update of another version's trees is refused."""
    params = uneven(tmp_path)
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    model, table = model_of(context, result["model"]), pooled_rows(context)
    own = [table.x[rows] for rows in table.parts]
    assert np.isnan(own[1][:, 1]).all()
    assert np.ptp(own[2][:, 1]) == 0
    assert [bool((x[:, 2] == 5).any()) for x in own] == [True, False, False]
    cuts = Cuts.from_arrays(model.arrays, 5)
    settings = {"objective": "binary:logistic", "base_score": model.meta["base_score"][0],
                "max_depth": 4, "min_child_weight": 0.1}  # fmt: skip
    theirs, _, _ = pooled(table, cuts, settings, 2)
    codes = bin_rows(table.x, cuts).astype(np.float32)
    codes[codes == missing_code(cuts)] = np.nan
    trees = json.loads(tree_bytes(model))
    same_structure(trees, theirs, cuts, codes)
    assert any(1 in tree["split_indices"] for tree in trees), "dose is split on"
    _other_versions(context, workspace)
    _other_order(context, workspace)


def _other_versions(context: Any, workspace: Path) -> None:
    """A coordinator of another version asks in a way that this site does not know."""
    home = SiteHome.find("a", workspace)
    prepared = load_prepared(context, home)
    asked = model_of(context, keys.model(3))  # a level within the first tree
    growing = asked.meta["growing"]
    tree = growing["trees"][0]
    assert growing["level"] == 1
    changes: list[dict[str, Any]] = [
        {"trees": [{**tree, "depth": [0, 1, 1]}]},
        {"trees": [{key: value for key, value in tree.items() if key != "place"} | {"plaice": []}]},
        {"level": "first"},
        {"trees": [{**tree, "right": [7, -1, -1]}]},
        {"trees": [{**tree, "feature": [9, 0, 0]}]},
        {"trees": [tree, tree]},
    ]

    def answer(other: Artefact) -> Any:
        known = train_histograms._growing(other, context, home)
        return train_histograms._sums(known, other, prepared, context, home)  # type: ignore[arg-type]

    assert answer(asked)["sums"].any()
    for change in changes:
        other = replace(asked, meta={**asked.meta, "growing": {**growing, **change}})
        with pytest.raises(ProtocolError, match="same version of folkmoot") as caught:
            answer(other)
        assert caught.value.code == "protocol.mismatch"


def _other_order(context: Any, workspace: Path) -> None:
    """Features stand in the contract's order, whatever the order of a site's columns."""
    frame = pd.read_parquet(SiteHome.find("a", workspace).dataset)
    anonymisation = context.params.anonymisation
    told = [encode_frame(f, context.contract, anonymisation, "trees")
            for f in (frame, frame[frame.columns[::-1]])]  # fmt: skip
    assert np.array_equal(told[0], told[1], equal_nan=True)


def test_labels_outside_the_classes_end_the_run_by_name(
    workspace_of: Workspace, tmp_path: Path
) -> None:
    params = uneven(tmp_path, b="perhaps")
    workspace = workspace_of(params)
    with pytest.raises(DataError, match=r"\by\b.*in 3 rows") as caught:
        run(params, run="one", workspace=workspace)
    assert caught.value.site == "b"
    assert "perhaps" not in str(caught.value)
