"""Whole runs: the pooled model, under masks as without, after crashes, and when a site is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from folkmoot.errors import FolkmootError, ProtocolError, RoundError
from folkmoot.models.trees import to_xgboost, tree_bytes
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.trees import options
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.histograms import bin_rows, missing_code
from folkmoot.wire import Artefact
from pipelines.coordinator import tree_plots
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks import train_histograms

from .conftest import Away, model_of, opened, pooled_rows, with_two
from .pooled import pooled, same_structure, train

Workspace = Callable[..., Path]
Mixed = Callable[..., Params]
MASKS = "aggregation.protection=masks"


def final(params: Params, workspace: Path, name: str, result: dict[str, Any]) -> Artefact:
    return model_of(opened(params, workspace, name), result["model"])


def arrays(model: Artefact) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.arrays.items()}


def test_masked_and_plain_runs_are_the_pooled_model(
    mixed: Mixed, workspace_of: Workspace, tmp_path: Path
) -> None:
    plain, masked = mixed(), mixed(MASKS)
    workspace = workspace_of(plain)
    first, second = (
        run(plain, run="one", workspace=workspace),
        run(masked, run="two", workspace=workspace),
    )
    model = final(plain, workspace, "one", first)
    assert arrays(model) == arrays(final(masked, workspace, "two", second))
    assert first["rounds"] == 2 + 2 * 3, "two counts, then a level per exchange"
    context = opened(plain, workspace, "one")
    table, cuts = pooled_rows(context), Cuts.from_arrays(model.arrays, 5)
    settings = {
        "objective": "multi:softprob",
        "num_class": 3,
        "base_score": model.meta["base_score"],
        "max_depth": 3,
        "eta": 0.3,
    }
    theirs, booster, matrix = pooled(table, cuts, settings, 2)
    codes = bin_rows(table.x, cuts).astype(np.float32)
    codes[codes == missing_code(cuts)] = np.nan
    same_structure(json.loads(tree_bytes(model)), theirs, cuts, codes)
    ours = to_xgboost(model)
    margins = ours.inplace_predict(table.x, predict_type="margin")
    assert np.abs(margins - booster.predict(matrix, output_margin=True)).max() <= 1e-5
    gains = booster.get_score(importance_type="total_gain")
    found = ours.get_score(importance_type="total_gain")
    assert list(found.values()) == pytest.approx([gains[f"f{j}"] for j in range(5)], rel=1e-4)
    told = {name: json.loads(text) for name, text in tree_plots.tables(model, context).items()}
    assert "released sums" in told["importance.json"]["what"]
    shares = {
        name: gains[f"f{j}"] / sum(gains.values()) for j, name in enumerate(model.meta["features"])
    }
    assert told["importance.json"]["importance"] == pytest.approx(shares, rel=1e-4)
    sizes = told["contributions.json"]["contributions"]
    assert sizes.keys() == told["importance.json"]["importance"].keys()
    assert max(sizes.values()) > 0
    _in_plain_xgboost(bytes(ours.save_raw("ubj")), table.x, margins, tmp_path)


def _in_plain_xgboost(saved: bytes, x: Any, margins: Any, folder: Path) -> None:
    (folder / "model.ubj").write_bytes(saved)
    np.savez(folder / "rows.npz", x=x, margins=margins)
    code = """
import sys, numpy, xgboost
booster = xgboost.Booster(model_file="model.ubj")
rows = numpy.load("rows.npz")
found = booster.inplace_predict(rows["x"], predict_type="margin")
assert numpy.abs(found - rows["margins"]).max() < 1e-6
assert not any(name.startswith(("folkmoot", "site_tasks")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize("protection", ["none", "masks"])
def test_steps_that_remember_nothing_publish_the_same_bytes(
    mixed: Mixed, workspace_of: Workspace, protection: str
) -> None:
    """Every step begins anew; bins and margins are lost now and then, sums are made again."""
    sampled = ("model.trees.subsample=0.8", "model.trees.colsample_bynode=0.7")
    params = mixed(*sampled, f"aggregation.protection={protection}")
    together, apart = workspace_of(params, "together"), workspace_of(params, "apart")
    run(params, run="one", workspace=together)
    contract = contract_for(params)
    for number, step in enumerate(plan_of(params, contract)):
        store = store_of(params, apart)
        context = open_run(params, contract, roster_for(apart), "one", store, apart)
        execute(step, context)
        if number % 3 == 0:
            for kept in ("bins", "margins"):
                for folder in apart.glob(f"sites/*/private/work/{kept}"):
                    shutil.rmtree(folder)
    one, other = (opened(params, w, "one") for w in (together, apart))
    for round in range(params.model.rounds + 1):
        models = [model_of(c, keys.model(round)) for c in (one, other)]
        assert arrays(models[0]) == arrays(models[1])
        assert models[0].meta["growing"] == models[1].meta["growing"]


@pytest.mark.parametrize("protection", ["none", "masks"])
def test_a_site_lost_within_a_tree(mixed: Mixed, workspace_of: Workspace, protection: str) -> None:
    """Counts in rounds 1 and 2, the first tree in 3 to 5; b is lost within the second, in round 7.

    In the clear the second tree begins again in round 8, without b, which is back in round 9 and
    waits; under masks it ends with the level that all three summed, and the third begins in round 8.
    """
    masked = protection == "masks"
    params = mixed(
        "federation.quorum=2",
        "model.trees.rounds=3",
        "model.trees.spare_exchanges=3",
        "aggregation.threshold=" + ("2" if masked else "null"),
        f"aggregation.protection={protection}",
    )
    workspace = workspace_of(params)
    for settings in workspace.glob("sites/*/site.toml"):
        settings.write_text(with_two(settings.read_text()))
    away = Away(workspace, "b", 6, 8)
    result = run(params, run="one", workspace=workspace, progress=away)
    context = opened(params, workspace, "one")
    model = model_of(context, result["model"])
    status = model.meta["boosting"]
    assert (status["restarts"], status["cut_short"]) == ((0, 1) if masked else (1, 0))
    assert status["stop"] == "complete"
    record = json.loads(context.store.get(context.key(keys.record(9))))
    assert "b" in record["missing"], "who missed the root has no part in the rest of the tree"
    assert any("round.tree" in line for line in away.said)
    table, cuts = pooled_rows(context), Cuts.from_arrays(model.arrays, 5)
    without = np.concatenate([table.parts[0], table.parts[2]])
    everybody = np.arange(len(table.y))
    alone = 2 if masked else 1
    trees, _ = train(
        table,
        cuts,
        "multi:softprob",
        model.meta["base_score"],
        options.rules_of(context.contract, params),
        options.columns_of(context.contract, params),
        steps=3,
        depth=[3, 1, 3] if masked else 3,
        classes=3,
        grid=options.grid_of(context),
        with_rows=lambda step: without if step == alone else everybody,
    )
    assert json.loads(tree_bytes(model)) == trees


def test_sums_over_nearly_the_same_sites_are_not_opened(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    """The same root over a, b, c and over a, c: their difference would be b's histogram."""
    from site_tasks.histogram_content import asked_of

    params = mixed("model.trees.rounds=1")
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    root, level = (model_of(context, keys.model(r)).meta for r in (2, 3))
    again = {**root, "growing": {**root["growing"], "began": 9, "sites": ["a", "c"]}}
    assert asked_of(root) == asked_of(again)
    assert asked_of(root) != asked_of(level)


def test_a_round_waits_for_a_site_where_all_are_required(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    params = mixed()
    workspace, other = workspace_of(params), workspace_of(params, "other")
    away = Away(workspace, "b", 4, 99)
    with pytest.raises(FolkmootError):
        run(params, run="one", workspace=workspace, progress=away)
    away.file.with_suffix(".away").rename(away.file)
    resumed = run(params, run="one", workspace=workspace)
    whole = run(params, run="one", workspace=other)
    found = [arrays(final(params, w, "one", r)) for w, r in ((workspace, resumed), (other, whole))]
    assert found[0] == found[1]


def test_early_stopping_keeps_the_best_model(mixed: Mixed, workspace_of: Workspace) -> None:
    params = mixed(
        "model.trees.rounds=12",
        "model.trees.max_depth=4",
        "model.trees.eta=1.0",
        "model.trees.min_child_weight=0.1",
        "model.trees.early_stopping_rounds=2",
    )
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    model = model_of(context, result["model"])
    losses: dict[int, float] = {}
    steps = 0
    for round in range(1, result["rounds"] + 1):
        record = json.loads(context.store.get(context.key(keys.record(round))))
        if record["metrics"]:
            losses[steps] = record["metrics"]["overall"]["log_loss"]
        steps = record["boosting"]["steps"]
    best = min(losses, key=lambda step: losses[step])
    assert model.meta["boosting"]["stop"] == "early_stopping"
    assert model.meta["boosting"]["steps"] == best < max(losses) == best + 2
    assert to_xgboost(model).num_boosted_rounds() == best
    assert len(model.arrays["gain"]) == sum(
        len(tree["left_children"]) for tree in json.loads(tree_bytes(model))
    )
    assert result["metrics"]["overall"]["log_loss"] == pytest.approx(losses[best], rel=1e-9)


@pytest.mark.parametrize("far", [None, 2**62, -(2**62), -(2**63)])
def test_sums_of_another_shape_or_beyond_the_grid_are_refused_by_name(
    mixed: Mixed, workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch, far: int | None
) -> None:
    params = mixed()
    honest = train_histograms._sums

    def odd(growing: Any, model: Any, prepared: Any, context: Any, home: Any) -> Any:
        found = honest(growing, model, prepared, context, home)
        if home.name != "b":
            return found
        if far is None:
            return {**found, "sums": found["sums"][..., :1]}
        found["sums"][0, 3, 0] = far
        return found

    monkeypatch.setattr(train_histograms, "_sums", odd)
    with pytest.raises(ProtocolError, match="site b holds no sums"):
        run(params, run="one", workspace=workspace_of(params))


def test_more_rows_than_the_grid_is_proven_for_are_refused(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    params = mixed("aggregation.rows_limit=64")
    with pytest.raises(RoundError, match="rows_limit"):
        run(params, run="one", workspace=workspace_of(params))


def test_bytes_and_exchanges_per_tree(mixed: Mixed, workspace_of: Workspace) -> None:
    """A site sends one of two children, in as many exchanges as the tree has levels."""
    params = mixed(
        "model.trees.rounds=1", "aggregation.evaluate_every=0", "model.trees.keep_sums=true"
    )
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    sent = nodes = 0
    for round in range(3, 6):
        data = context.store.get(context.key(keys.update(round, "a")))
        sent += len(data)
        growing = model_of(context, keys.model(round - 1)).meta["growing"]
        nodes += sum(1 + (b[1] >= 0) for tree in growing["trees"] for b in tree["built"])
    bins = Cuts.from_arrays(model_of(context, keys.model(5)).arrays, 5).bins
    overhead = 3 * 4096
    assert sent - overhead < 0.75 * nodes * bins * 2 * 8


@pytest.mark.parametrize("objective", ["reg:squarederror", "count:poisson"])
def test_numbers_and_counts(workspace_of: Workspace, objective: str) -> None:
    """Labels with bounds: the pooled model's margins and predictions, with a rate per step."""
    params = parse_params(
        {
            "data": {"recipe": "diabetes"},
            "model": {
                "kind": "trees",
                "trees": {
                    "strategy": "summed_histograms",
                    "objective": objective,
                    "rounds": 2,
                    "max_depth": 2,
                    "max_bin": 16,
                    "learning_rates": [0.5, 0.25],
                    "bin_edges": "bounds",
                },
            },
            "tracking": {"enabled": False},
        }
    )
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    model = model_of(context, result["model"])
    table = pooled_rows(context, params.federation.members)
    cuts = Cuts.from_arrays(model.arrays, table.x.shape[1])
    codes = bin_rows(table.x, cuts).astype(np.float32)
    settings = {"objective": objective, "base_score": model.meta["base_score"][0], "max_depth": 2}
    types = model.meta["feature_types"]
    matrix = xgboost.DMatrix(codes, table.y, feature_types=types, enable_categorical=True)
    settings |= {"tree_method": "hist", "max_bin": 4096, "nthread": 1}
    booster = xgboost.Booster(settings, [matrix])
    for number, rate in enumerate((0.5, 0.25)):  # XGBoost's own callback is a step late
        booster.set_param("eta", rate)
        booster.update(matrix, number)
    ours = to_xgboost(model)
    margins = ours.inplace_predict(table.x, predict_type="margin")
    expected = booster.predict(matrix, output_margin=True)
    assert margins == pytest.approx(expected, rel=1e-5, abs=1e-5)
    predicted = ours.inplace_predict(table.x)
    assert predicted == pytest.approx(booster.predict(matrix), rel=1e-5)
    held_out = pooled_rows(context, params.federation.members, "test")
    error = ours.inplace_predict(held_out.x) - held_out.y
    assert result["metrics"]["overall"]["rmse"] == pytest.approx(
        np.sqrt((error**2).mean()), rel=1e-5
    )
