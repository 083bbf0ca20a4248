"""The coordinator's side: one booster that grows, from checked trees, in the order of the sites."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from folkmoot import metrics
from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.models.tree_format import TreeSpace, dump_trees, parse_trees
from folkmoot.models.trees import empty_model, import_xgboost, to_xgboost, tree_bytes
from folkmoot.plan import Step
from folkmoot.updates import Statistics, TreeUpdate
from folkmoot.wire import Artefact, encode
from pipelines.coordinator.aggregate.trees import aggregate, initial
from site_tasks import train_trees
from site_tasks.margins import margins

from .conftest import TYPES, Release, World, rows_of

TASKS = ("binary", "multiclass", "regression")
BASE: dict[str, list[float]] = {
    "binary": [0.3],
    "multiclass": [-0.5, 0.1, 0.4],
    "regression": [1.7],
}


def grow_at(world: World, model: Artefact, site: str, round: int) -> TreeUpdate:
    """The update that a site makes of a global model."""
    step = Step(f"round-{round:03d}/train/{site}", "site.train_trees", site, round)
    return train_trees._update(step, world.context, world.homes[site], world.prepared[site], model)


def one_round(
    world: World, release: Release, model: Artefact, round: int, sites: str = "abcd"
) -> Artefact:
    updates = [
        release(world.context, site, round, update=grow_at(world, model, site, round))
        for site in sites
    ]
    arrays, changes = aggregate(model, updates, world.context, round)
    return Artefact("model", {**model.meta, **changes, "round": round}, arrays)


def start(world: World, task: str) -> Artefact:
    return empty_model(world.context.contract, world.context.params, BASE[task])


@pytest.mark.parametrize("task", TASKS)
def test_the_saved_model_is_plain_xgboost(
    world: Callable[..., World], release: Release, task: str, tmp_path: Path
) -> None:
    """Loaded in a fresh process that has never seen Folkmoot, it predicts the merged margins."""
    here = world(task, "model.trees.trees_per_round=2")
    model = start(here, task)
    for round in (1, 2):
        model = one_round(here, release, model, round)
    to_xgboost(model).save_model(tmp_path / "model.json")
    rows = here.prepared["c"].matrix("test")
    np.save(tmp_path / "rows.npy", rows)
    code = f"""
import numpy, xgboost
booster = xgboost.Booster(model_file="model.json")
x = xgboost.DMatrix(numpy.load("rows.npy"), feature_names=booster.feature_names,
                    feature_types=booster.feature_types, enable_categorical=True)
numpy.save("margins.npy", booster.predict(x, output_margin=True))
numpy.save("scores.npy", booster.predict(x))
print(booster.num_boosted_rounds(), booster.num_features(), booster.feature_types == {list(TYPES)})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["16", "5", "True"]  # 4 sites, 2 rounds, 2 steps each
    expected = margins(model, here.prepared["c"], "test", here.context, here.homes["c"])
    np.testing.assert_allclose(np.load(tmp_path / "margins.npy"), expected, atol=1e-6)
    scores = train_trees.scores(model, here.prepared["c"], "test", here.context, here.homes["c"])
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), scores, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_one_site_cyclic_equals_pooled_xgboost(
    world: Callable[..., World], release: Release, task: str
) -> None:
    """A federation of one site is XGBoost: ten rounds predict as ``xgboost.train`` of ten steps."""
    here = world(task, "model.trees.strategy=cyclic", "model.trees.max_depth=4", rows=800)
    model = start(here, task)
    for round in range(1, 11):
        model = one_round(here, release, model, round, "a")
    prepared = here.prepared["a"]
    params: dict[str, Any] = {
        "objective": model.meta["objective"],
        "base_score": BASE[task] if task == "multiclass" else BASE[task][0],
        "max_depth": 4,
    }
    if task == "multiclass":
        params["num_class"] = 3
    matrix = xgboost.QuantileDMatrix(
        prepared.matrix("train"), prepared.labels("train"), feature_types=list(TYPES)
    )
    if task == "multiclass":  # xgboost.train takes no vector of base scores: margins say the same
        params.pop("base_score")
        matrix.set_base_margin(np.tile(np.float32(BASE[task]), (prepared.rows["train"], 1)))
    own = xgboost.train(params, matrix, 10)
    held_out = prepared.matrix("test")
    base = np.tile(np.float32(BASE[task]), (len(held_out), 1)) if task == "multiclass" else None
    expected = own.inplace_predict(held_out, predict_type="margin", base_margin=base)
    found = margins(model, prepared, "test", here.context, here.homes["a"])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_bagging_by_rows_averages_the_sites(world: Callable[..., World], release: Release) -> None:
    """Margin after a round = base + sum over sites of share · the site's own step."""
    here = world("regression")
    model = start(here, "regression")
    merged = one_round(here, release, model, 1)
    x = here.prepared["d"].matrix("test")
    weights = {site: here.prepared[site].rows["train"] for site in "abcd"}
    expected = np.full(len(x), BASE["regression"][0])
    for site, weight in weights.items():
        alone = {**model.meta, "trees": 1}
        trees = np.frombuffer(grow_at(here, model, site, 1).trees, np.uint8)
        booster = to_xgboost(Artefact("model", alone, {"trees": trees}))
        step = booster.inplace_predict(x, predict_type="margin") - BASE["regression"][0]
        expected += weight / sum(weights.values()) * step
    found = margins(merged, here.prepared["d"], "test", here.context, here.homes["d"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_leaf_weighting_sum_adds_leaves_as_they_are(
    world: Callable[..., World], release: Release
) -> None:
    here = world("binary", "model.trees.leaf_weighting=sum")
    model = start(here, "binary")
    merged = one_round(here, release, model, 1)
    trees = [json.loads(grow_at(here, model, site, 1).trees)[0] for site in "abcd"]
    assert json.loads(tree_bytes(merged)) == trees


def test_uniform_weighting_gives_every_site_the_same_share(
    world: Callable[..., World], release: Release
) -> None:
    here = world("binary", "aggregation.weighting=uniform")
    model = start(here, "binary")
    assert grow_at(here, model, "c", 1).weight == 1.0
    merged = json.loads(tree_bytes(one_round(here, release, model, 1)))
    own = json.loads(grow_at(here, model, "d", 1).trees)[0]
    leaf = own["left_children"].index(-1)
    assert merged[3]["split_conditions"][leaf] == pytest.approx(own["split_conditions"][leaf] / 4)


def test_weights_are_the_sums_of_sample_weights(world: Callable[..., World]) -> None:
    here = world("binary", weighted=True)
    update = grow_at(here, start(here, "binary"), "b", 1)
    found = here.prepared["b"].weights("train")
    assert found is not None
    assert update.weight == found.sum()
    bare = world("binary")
    assert grow_at(bare, start(bare, "binary"), "b", 1).trees != update.trees


@pytest.mark.parametrize("task", TASKS)
def test_order_of_arrival_changes_no_byte(
    world: Callable[..., World], release: Release, task: str
) -> None:
    here = world(task)
    model = start(here, task)
    updates = [
        release(here.context, site, 1, update=grow_at(here, model, site, 1)) for site in "abcd"
    ]
    one, changes = aggregate(model, updates, here.context, 1)
    two, again = aggregate(model, updates[::-1], here.context, 1)
    assert encode(Artefact("model", changes, one)) == encode(Artefact("model", again, two))
    assert changes["trees"] == (12 if task == "multiclass" else 4)


def test_the_model_starts_with_the_model_before(
    world: Callable[..., World], release: Release
) -> None:
    here = world("binary")
    first = one_round(here, release, start(here, "binary"), 1)
    second = one_round(here, release, first, 2)
    assert tree_bytes(second).startswith(tree_bytes(first)[:-1])


def test_only_released_updates_are_merged(world: Callable[..., World]) -> None:
    here = world("binary")
    model = start(here, "binary")
    raw: Any = grow_at(here, model, "a", 1)
    with pytest.raises(PrivacyError) as caught:
        aggregate(model, [raw], here.context, 1)
    assert caught.value.code == "privacy.order"
    with pytest.raises(PrivacyError):
        initial([raw], here.context)


def test_a_malformed_update_names_its_site(world: Callable[..., World], release: Release) -> None:
    here = world("binary")
    model = start(here, "binary")
    good = release(here.context, "a", 1, update=grow_at(here, model, "a", 1))
    tree = json.loads(grow_at(here, model, "b", 1).trees)[0]
    tree["left_children"][0] = 0
    for bad in (dump_trees([tree]), dump_trees([]), b"", b"[[]]"):
        forged = release(here.context, "b", 1, update=TreeUpdate(bad, 10.0))
        with pytest.raises(ProtocolError) as caught:
            aggregate(model, [good, forged], here.context, 1)
        assert caught.value.site == "b"
    empty = release(here.context, "b", 1, evaluation=Statistics({"rows": np.array(1)}))
    with pytest.raises(ProtocolError) as caught:
        aggregate(model, [good, empty], here.context, 1)
    assert caught.value.code == "protocol.mismatch"


def test_the_coordinator_never_loads_xgboost() -> None:
    code = (
        "import sys; sys.modules['xgboost'] = None; sys.modules['sklearn'] = None\n"
        "sys.modules['pandas'] = None\n"
        "from pipelines.coordinator.aggregate.trees import aggregate, initial\n"
        "import folkmoot.models.trees"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PRIORS: list[tuple[str, dict[str, Any], list[float]]] = [
    ("binary", {"class_counts": np.array([49, 149])}, [300 / 400]),
    ("binary", {}, [0.5]),
    ("regression", {"rows": np.array(10), "label_sum": np.array(25.0)}, [2.5]),
    ("regression", {}, [0.0]),
    ("multiclass", {}, [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("task", "arrays", "expected"), PRIORS)
def test_the_base_score_is_the_prior(
    world: Callable[..., World],
    release: Release,
    task: str,
    arrays: dict[str, Any],
    expected: list[float],
) -> None:
    here = world(task)
    statistics = [
        release(here.context, site, 0, statistics=Statistics(arrays)) for site in ("b", "a")
    ]
    if task == "binary" and arrays:
        expected = [299 / 398]  # (2 · 149 + 1) of (2 · 198 + 2)
    model = initial(statistics, here.context)
    assert model.meta["base_score"] == pytest.approx(expected)
    assert model.meta["trees"] == 0


def test_the_base_score_of_classes_gives_their_shares(
    world: Callable[..., World], release: Release
) -> None:
    here = world("multiclass")
    arrays = {"class_counts": np.array([9, 29, 59])}
    model = initial([release(here.context, "a", 0, statistics=Statistics(arrays))], here.context)
    p = to_xgboost(model).inplace_predict(np.zeros((1, 5)))
    np.testing.assert_allclose(p[0], [0.1, 0.3, 0.6], rtol=1e-5)


def test_change_is_the_improvement_of_the_held_out_loss(
    world: Callable[..., World], release: Release
) -> None:
    here = world("binary")
    model = start(here, "binary")
    y = np.array([0, 1, 1, 0])

    def step(before: Artefact, round: int, p: float) -> Artefact:
        counts = metrics.count("binary", y, np.where(y == 1, p, 1 - p), 2)
        update = release(
            here.context,
            "a",
            round,
            update=grow_at(here, before, "a", round),
            evaluation=Statistics(counts),
        )
        arrays, changes = aggregate(before, [update], here.context, round)
        return Artefact("model", {**before.meta, **changes}, arrays)

    first = step(model, 1, 0.5)
    second = step(first, 2, 0.8)
    third = step(second, 3, 0.7)
    assert first.meta["change"] is None
    assert second.meta["change"] == pytest.approx(1 - np.log(0.8) / np.log(0.5))
    assert third.meta["change"] < 0, "a loss that grows ends the rounds"


def test_shap_contributions_sum_to_the_margin(
    world: Callable[..., World], release: Release
) -> None:
    here = world("binary")
    model = one_round(here, release, start(here, "binary"), 1)
    booster = to_xgboost(model)
    x, _ = rows_of("binary", 50, 9)
    matrix = xgboost.DMatrix(
        x,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    found = booster.predict(matrix, pred_contribs=True)
    np.testing.assert_allclose(
        found.sum(axis=1), booster.predict(matrix, output_margin=True), atol=1e-5
    )
    assert sum(booster.get_score(importance_type="weight").values()) > 0


def test_a_linear_model_is_no_booster() -> None:
    with pytest.raises(ProtocolError) as caught:
        to_xgboost(Artefact("model", {"kind": "linear"}))
    assert caught.value.code == "protocol.mismatch"


def test_parsed_model_equals_its_trees(world: Callable[..., World], release: Release) -> None:
    here = world("multiclass")
    model = one_round(here, release, start(here, "multiclass"), 1)
    space = TreeSpace.of(here.context.contract, here.context.params)
    assert space == TreeSpace.from_meta(model.meta)
    data = tree_bytes(model)
    assert dump_trees(parse_trees(data, space, count=12, what="it")) == data


def test_xgboost_alone_leaves_scikit_learn_out() -> None:
    code = (
        "import sys\nfrom folkmoot.models.trees import import_xgboost\n"
        "xgboost = import_xgboost(alone=True)\n"
        "assert 'sklearn' not in sys.modules\n"
        "import sklearn.linear_model\n"
        "assert xgboost.Booster"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert import_xgboost(alone=True) is xgboost
