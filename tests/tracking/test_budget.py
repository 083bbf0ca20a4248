"""Privacy budgets in a real MLflow: tags, table, plot with its ceiling, and the signed-off statement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.params import Params
from pipelines.coordinator import mlflow_store, tracking
from pipelines.coordinator.published import published
from pipelines.coordinator.statement import budget, statement, words

from .conftest import Tracked, settings, train

BUDGET = 9.0
NOISY = (
    "data.scaling=bounds",
    "aggregation.weighting=uniform",
    "model.linear.strategy=fedavg",
    "model.linear.rounds=3",
    "model.linear.early_stopping.tolerance=0",
    "privacy.mechanism=gaussian",
    "privacy.noise_multiplier=2.0",
    f"privacy.epsilon={BUDGET}",
)


@pytest.fixture(scope="module")
def noisy(new_workspace: Callable[[Params], Path]) -> Tracked:
    params = settings(*NOISY)
    workspace = new_workspace(params)
    context = train(params, "noisy", workspace)
    state = tracking.sync(context)
    registered = tracking.register(context)
    client = mlflow_store.connect(params, workspace)
    return Tracked(params, workspace, context, client, state.run_id, registered)


def artefact(tracked: Tracked, name: str, folder: Path) -> str:
    return Path(tracked.client.download_artifacts(tracked.run_id, name, str(folder))).read_text()


def test_epsilon_and_its_ceiling_by_round(noisy: Tracked) -> None:
    spent = noisy.client.get_metric_history(noisy.run_id, "epsilon")
    assert [m.step for m in spent] == [1, 2, 3]
    assert 0 < spent[0].value < spent[1].value < spent[2].value <= BUDGET
    ceiling = noisy.client.get_metric_history(noisy.run_id, "epsilon_ceiling")
    assert [(m.step, m.value) for m in ceiling] == [(1, BUDGET), (2, BUDGET), (3, BUDGET)]


def test_tags_say_mechanism_unit_relation_accountant(noisy: Tracked) -> None:
    expected = {
        "folkmoot.mechanism": "gaussian",
        "folkmoot.unit": "record",
        "folkmoot.relation": "replace-one",
        "folkmoot.accountant": "analytic-gaussian",
    }
    tags = noisy.client.get_run(noisy.run_id).data.tags
    assert expected.items() <= tags.items()
    version = noisy.client.get_model_version(noisy.registered.name, str(noisy.registered.version))
    assert expected.items() <= version.tags.items()


def test_the_table_has_a_row_per_site_and_round(noisy: Tracked, tmp_path: Path) -> None:
    found = json.loads(artefact(noisy, "privacy_budget.json", tmp_path))
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
    assert [(row["site"], row["round"]) for row in rows] == [
        (site, round) for round in (1, 2, 3) for site in ("north", "south")
    ]
    assert [row["releases charged"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert rows[-1]["epsilon"] == noisy.client.get_run(noisy.run_id).data.metrics["epsilon"]
    shown = noisy.client.get_run(noisy.run_id).data.tags["mlflow.loggedArtifacts"]
    assert {"path": "privacy_budget.json", "type": "table"} in json.loads(shown)


def test_the_plot_has_the_ceiling_as_a_line(noisy: Tracked) -> None:
    from pipelines.coordinator.plots import figures

    (axes,) = figures(published(noisy.context), "binary", BUDGET)["plots/epsilon.png"].axes
    assert any(set(line.get_ydata()) == {BUDGET} for line in axes.lines)
    assert axes.get_ylim()[1] >= BUDGET
    names = [item.path for item in noisy.client.list_artifacts(noisy.run_id, "plots")]
    assert "plots/epsilon.png" in names


def test_a_registered_model_carries_its_statement(noisy: Tracked, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    version = noisy.client.get_model_version(noisy.registered.name, str(noisy.registered.version))
    folder = Path(download_artifacts(version.source, dst_path=str(tmp_path)))
    claims = json.loads((folder / "privacy_statement.json").read_text())
    text = (folder / "privacy_statement.md").read_text()
    assert claims == statement(published(noisy.context), noisy.context)
    assert claims["claim"] == "private"
    assert claims["sites"]["north"]["epsilon"] == claims["epsilon"]
    assert not any("held-out rows" in line for line in claims["not_covered"])
    for part in (f"ε ≤ {claims['epsilon']:.4g}", "record", "replace-one", "Signed:", "south"):
        assert part in text
        assert part in version.description


def test_nothing_is_claimed_without_noise(tracked: Tracked) -> None:
    found = published(tracked.context)
    claims = statement(found, tracked.context)
    assert (claims["claim"], claims["epsilon"], claims["delta"]) == ("not private", None, None)
    assert "No differential privacy is claimed" in words(claims)
    assert "ε" not in words(claims).replace("(ε, δ)", "")
    assert all(row[4] is None for row in budget(found)["data"])
    tags = tracked.client.get_run(tracked.run_id).data.tags
    assert tags["folkmoot.mechanism"] == "none"
    assert "folkmoot.accountant" not in tags


def test_a_seed_is_not_private(noisy: Tracked) -> None:
    from dataclasses import replace

    privacy = noisy.params.privacy.model_copy(update={"seeded": True})
    params: Any = noisy.params.model_copy(update={"privacy": privacy})
    claims = statement(published(noisy.context), replace(noisy.context, params=params))
    assert claims["claim"] == "not private"
    assert "the noise came from a seed" in words(claims)
