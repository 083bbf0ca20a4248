"""The additive booster says what its linear model says, on every kind of column."""

from __future__ import annotations

import json

import numpy as np
import pytest

from folkmoot.models.design import Design
from folkmoot.models.trees import OBJECTIVES
from folkmoot.params import Anonymisation
from folkmoot.privacy.bins import Layout
from folkmoot.trees.additive import additive_trees, fitting, linear_rows
from folkmoot.trees.booster import export, make_booster, margins

from .conftest import contract_of, rows_of

PLAIN = Anonymisation()


def design_of(binned: bool) -> Design:
    """As a noised histogram gives it: bins of ``age``, and of ``gain`` unless nothing stood out."""
    layout = Layout.of(contract_of("binary"), PLAIN)
    number = np.array([edges is not None for edges in layout.edges])
    lists = {0: [12.5, 40.1, 77.7]} | ({1: [3.3, 9_000.7]} if binned else {})
    feature = np.array([j for j, edges in lists.items() for _ in edges])
    edge = np.array([value for edges in lists.values() for value in edges])
    mean = np.where(number, layout.lower + 0.41 * (layout.upper - layout.lower), 0.0)
    scale = np.where(np.isin(np.arange(len(mean)), feature), 1 / 0.7, 1.0)
    return fitting(Design(mean, scale, layout.lower, layout.upper, feature, edge))


@pytest.mark.parametrize("binned", [True, False])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_trees_and_linear_model_agree(task: str, binned: bool) -> None:
    contract, design = contract_of(task), design_of(binned)
    rng = np.random.default_rng(4)
    classes = 3 if task == "multiclass" else 1
    coef, intercept = rng.normal(size=(classes, design.width)), rng.normal(size=classes)
    x = rows_of(600, 5)
    x[:4, 0] = [12.5, 40.1, np.nextafter(77.7, 0), 100.0]
    x[4:8, 1] = np.nan
    wanted = design.columns(linear_rows(x, contract, PLAIN)) @ coef.T + intercept
    trees = additive_trees(design, coef, intercept, contract, PLAIN)
    assert len(trees) == classes * (1 + 5 + 3)  # intercept, columns, stumps of missing ones
    found = margins(trees, x, [0.0] * classes).reshape(600, classes)
    assert np.abs(found - wanted).max() < 2e-6
    meta = {
        "features": [c.name for c in contract.inputs],
        "feature_types": ["q", "q", "c", "q", "c"],
        "task": task,
        "objective": OBJECTIVES[task],
        "num_class": classes if task == "multiclass" else 0,
        "base_score": [0.0] * 3 if task == "multiclass" else [0.5],
    }
    by_xgboost = make_booster(meta, trees).inplace_predict(x, predict_type="margin")
    assert np.abs(by_xgboost.reshape(600, classes) - found).max() < 1e-6
    for tree in json.loads(export(meta, trees))["learner"]["gradient_booster"]["model"]["trees"]:
        inner = [at for at, child in enumerate(tree["left_children"]) if child != -1]
        assert len({tree["split_indices"][at] for at in inner}) <= 1, "one feature a tree"
        assert not any(tree["loss_changes"])


def test_a_number_without_bins_says_nothing() -> None:
    """Its slope cannot stand in a tree, and must not be trained as if it could."""
    design = design_of(binned=False)
    x = rows_of(50, 6)
    columns = design.columns(linear_rows(x, contract_of("binary"), PLAIN))
    kept = [int(j) for j in design.kept]
    assert not columns[:, kept.index(1)].any()
    assert design_of(binned=True).width == design.width + 2
