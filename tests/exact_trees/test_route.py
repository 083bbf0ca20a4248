"""Rows find their leaves by bins as XGBoost finds them by values, and level by level as at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree, TreeSpace, parse_trees
from folkmoot.models.trees import to_xgboost, tree_bytes
from folkmoot.params import Params
from folkmoot.plan import RunContext, keys
from folkmoot.trees import options
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.histograms import bin_rows, leaves, missing_code
from folkmoot.trees.route import Route, route_of
from folkmoot.wire import Artefact
from pipelines.hosts.embedded import run
from site_tasks import margins as module
from site_tasks.binned import bins_of, nodes_of
from site_tasks.home import SiteHome
from site_tasks.margins import margins
from site_tasks.prepared import load_prepared

from .conftest import model_of, opened, pooled_rows

Trained = tuple[RunContext, Artefact, list[Tree], Cuts]


@pytest.fixture(scope="module")
def trained(mixed: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Six trees of three classes, with categories and missing values, and their bin edges."""
    workspace = tmp_path_factory.mktemp("route")
    params = mixed("model.trees.rounds=2", "model.trees.max_cat_to_onehot=2")
    result = run(params, run="r", workspace=workspace)
    context = opened(params, workspace, "r")
    model = model_of(context, result["model"])
    space = TreeSpace.of(context.contract, context.params)
    trees = parse_trees(tree_bytes(model), space, count=None, what="it")
    return context, model, trees, Cuts.from_arrays(model.arrays, len(model.meta["features"]))


def test_bins_lead_to_the_leaves_of_xgboost(trained: Trained) -> None:
    context, model, trees, cuts = trained
    x = pooled_rows(context).x
    missing = missing_code(cuts)
    kinds = [str(kind) for kind in model.meta["feature_types"]]
    rows = xgboost.DMatrix(x, feature_types=kinds, enable_categorical=True)
    booster = to_xgboost(model)
    booster.feature_names = None
    theirs = booster.predict(rows, pred_leaf=True)
    bins, found = bin_rows(x, cuts), 0
    assert np.isnan(x).any()
    assert any(tree["categories_nodes"] for tree in trees)
    for k, tree in enumerate(trees):
        route = route_of(tree, cuts, missing)
        if route is not None:
            found += 1
            assert np.array_equal(leaves(bins, missing, route), theirs[:, k])
    assert found >= 4


def test_level_by_level_is_as_at_once(trained: Trained) -> None:
    context, _, trees, cuts = trained
    missing = missing_code(cuts)
    bins = bin_rows(pooled_rows(context).x, cuts)
    routes = [r for tree in trees if (r := route_of(tree, cuts, missing)) is not None]
    for route in routes:
        stump = pruned(route)
        assert route.extends(stump)
        assert not stump.extends(route)
        at_once = leaves(bins, missing, route)
        assert np.array_equal(leaves(bins, missing, route, leaves(bins, missing, stump)), at_once)
    assert not routes[0].extends(pruned(routes[1])), "another tree's rows stand elsewhere"


def pruned(route: Route) -> Route:
    """The tree as it was before its root's children were split."""
    left, right = route.left[:3].copy(), route.right[:3].copy()
    left[1:] = right[1:] = -1
    codes = route.codes[:3] if len(route.codes) > 1 else route.codes
    first = (route.feature[:3], route.place[:3], route.default_left[:3])
    return Route(left, right, *first, codes)


def test_thresholds_that_bins_cannot_tell_are_left_to_xgboost(trained: Trained) -> None:
    _, _, trees, cuts = trained
    missing = missing_code(cuts)
    node, tree = next(
        (n, t)
        for t in trees
        for n, left in enumerate(t["left_children"])
        if left != -1 and not t["split_type"][n] and route_of(t, cuts, missing) is not None
    )
    feature = tree["split_indices"][node]
    own = cuts.values[cuts.first[feature] : cuts.first[feature + 1]]
    for threshold in (own[-1], cuts.lowest[feature], np.nextafter(own[0], own[1])):
        conditions = list(tree["split_conditions"])
        conditions[node] = float(threshold)
        assert route_of({**tree, "split_conditions": conditions}, cuts, missing) is None


def test_margins_by_leaf_are_the_bits_of_xgboosts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, model, _, _ = trained
    before = model_of(context, keys.model(round_before(context, model)))
    home = SiteHome.find("a", context.workspace)
    prepared = load_prepared(context, home)
    cuts = options.cuts_of(context, model)
    bins, missing = bins_of(cuts, prepared, context, home), missing_code(cuts)

    def leaf(k: int, tree: Tree) -> NDArray[np.int32] | None:
        route = route_of(tree, cuts, missing)
        return None if route is None else nodes_of(k, route, bins, missing, context, home)

    found = []
    for way in (None, leaf):
        context.cache.pop(("margins", home.name), None)
        shutil.rmtree(home.work / "margins", ignore_errors=True)
        margins(before, prepared, "train", context, home)
        if way is not None:
            monkeypatch.setattr(module, "make_booster", None)  # nobody is asked
        found.append(margins(model, prepared, "train", context, home, way))
    assert np.array_equal(found[0], found[1])


def round_before(context: RunContext, model: Artefact) -> int:
    """Newest round whose model had one step's trees less."""
    for round in range(int(model.meta["round"]) - 1, 0, -1):
        if int(model_of(context, keys.model(round)).meta["trees"]) == int(model.meta["trees"]) - 3:
            return round
    raise AssertionError
