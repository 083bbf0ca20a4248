"""Registered versions: what they hold, and who becomes champion."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.params import Params
from folkmoot.plan import keys
from pipelines.coordinator import mlflow_store, tracking
from pipelines.coordinator.open_round import load_json
from pipelines.coordinator.registry import verdict

from .conftest import Tracked, context_of, settings, train

Workspaces = Callable[[Params], Path]


def version_of(tracked: Tracked) -> Any:
    return tracked.client.get_model_version("clinic-linear", "1")


def test_first_version_is_candidate_and_champion(tracked: Tracked) -> None:
    registered = tracked.registered
    assert (registered.name, registered.version) == ("clinic-linear", 1)
    assert registered.aliases == ("candidate", "champion")
    assert registered.reason == "there was no champion"
    for alias in registered.aliases:
        assert tracked.client.get_model_version_by_alias("clinic-linear", alias).version == 1


def test_tags_answer_where_it_came_from(tracked: Tracked) -> None:
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    tags = version_of(tracked).tags
    assert tags["folkmoot.run"] == "first"
    assert tags["folkmoot.model_digest"] == result["model_digest"]
    assert {s: tags[f"folkmoot.dataset.{s}"] for s in ("north", "south")} == result["datasets"]
    assert float(tags["folkmoot.metric.auc"]) == result["metrics"]["overall"]["auc"]
    assert tags["folkmoot.private"] == "false"
    assert "folkmoot.epsilon" not in tags
    assert "Not differentially private" in version_of(tracked).description


def test_files_are_pinned_signed_and_free_of_pickle(tracked: Tracked) -> None:
    folder = Path(tracked.client.download_artifacts(tracked.run_id, "")).parent
    models = tracked.workspace / "coordinator" / "mlartifacts" / "clinic" / "models"
    (artifacts,) = [path / "artifacts" for path in models.iterdir()]
    assert folder.is_relative_to(models.parent)
    pinned = (artifacts / "requirements.txt").read_text().split()
    for name in ("mlflow", "numpy", "pandas", "scikit-learn", "pydantic"):
        assert f"{name}=={importlib.metadata.version(name)}" in pinned
    assert not [p for p in pinned if p.startswith(("apache-airflow", "dvc", "xgboost"))]
    names = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*")}
    assert {"MLmodel", "input_example.json", "data/global_model/model.folkmoot"} <= names
    assert "code/folkmoot/models/predictor.py" in names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".joblib", ".pyc"))]
    assert "pickle" not in (artifacts / "MLmodel").read_text()
    published = tracked.context.store.get(tracked.context.key(keys.model(4)))
    assert (artifacts / "data" / "global_model" / "model.folkmoot").read_bytes() == published


def test_again_is_the_same_version(tracked: Tracked) -> None:
    context = context_of(tracked.params, "first", tracked.workspace)
    assert tracking.register(context) == tracked.registered
    assert len(tracked.client.search_model_versions("name = 'clinic-linear'")) == 1


def test_champion_is_beaten_by_better_models_alone(new_workspace: Workspaces) -> None:
    """Real trainings of falling and rising quality; an older one registered late moves nothing."""
    newton = ["model.linear.early_stopping.tolerance=0", "federation.name=arena"]
    poor = settings(*newton, "model.linear.strategy=fedavg", "model.linear.rounds=1",
                    "model.linear.learning_rate=0.0001")  # fmt: skip
    good = settings(*newton, "model.linear.rounds=5")
    same = settings(*newton, "model.linear.rounds=6")
    workspace = new_workspace(poor)
    runs = [train(p, name, workspace) for name, p in
            (("poor", poor), ("good", good), ("same", same), ("worse", poor))]  # fmt: skip
    late = runs.pop(2)
    registered = [tracking.register(context) for context in runs]
    assert [r.version for r in registered] == [1, 2, 3]
    assert registered[0].aliases == ("candidate", "champion")
    assert registered[1].aliases == ("candidate", "champion")
    assert "beats" in registered[1].reason
    assert "the same held-out rows" in registered[1].reason
    assert registered[2].aliases == ("candidate",)
    assert "does not beat" in registered[2].reason
    converged = tracking.register(late)  # as good as the champion, not better
    assert converged.aliases == ("candidate",)
    again = tracking.register(context_of(good, "good", workspace))
    assert (again.version, again.aliases, again.reason) == (
        2,
        ("champion",),
        registered[1].reason,
    )
    client = mlflow_store.connect(good, workspace)
    aliases = client.get_registered_model("arena-linear").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {
        "candidate": 4,
        "champion": 2,
    }


def test_a_person_decides_where_params_ask(new_workspace: Workspaces) -> None:
    params = settings("approval.champion=true", "model.linear.rounds=1")
    workspace = new_workspace(params)
    context = train(params, "asked", workspace)
    registered = tracking.register(context)
    assert registered.aliases == ("candidate",)
    assert registered.reason == "waits for approval: there was no champion"
    assert tracking.register(context) == registered, "asked once"
    arguments = ["asked", "--by", "head of data", "--workspace", str(workspace)]
    chosen = ["--set", "federation.name=clinic", "--set", "federation.sites=[north,south]"]
    done = CliRunner().invoke(app, ["approve", *arguments, *chosen], catch_exceptions=False)
    assert "version 1: approved by head of data; there was no champion" in done.output
    with pytest.raises(ConfigError, match="waits for nobody: approved"):
        tracking.decide(context, False, "somebody else")
    # As if another had become champion meanwhile, that this one does not beat: it stays candidate.
    client = mlflow_store.connect(params, workspace)
    for wanted, says in ((True, "approved by"), (False, "rejected by")):
        client.set_model_version_tag(
            "clinic-linear", "1", "folkmoot.verdict", "waits for approval: x"
        )
        client.delete_registered_model_alias("clinic-linear", "champion")
        client.set_model_version_tag("clinic-linear", "1", "folkmoot.seeded", "true")
        late = tracking.decide(context, wanted, "b")
        assert late.aliases == ("candidate",)
        assert late.reason.startswith(f"{says} b; ")


def test_seeded_noise_never_becomes_champion(new_workspace: Workspaces) -> None:
    params = settings(
        "federation.name=study",
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=0.1",
        "privacy.seeded=true",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
        "model.linear.strategy=fedavg",
        "model.linear.rounds=1",
    )
    workspace = new_workspace(params)
    for settings_file in (workspace / "sites").glob("*/site.toml"):
        text = settings_file.read_text()
        settings_file.write_text(text.replace("seeded = false", "seeded = true"))
    context = train(params, "study", workspace)
    registered = tracking.register(context)
    assert registered.aliases == ("candidate",)
    assert "NOT PRIVATE" in registered.reason
    client = mlflow_store.connect(params, workspace)
    version = client.get_model_version(registered.name, "1")
    assert version.tags["folkmoot.seeded"] == "true"
    assert version.tags["folkmoot.private"] == "false"
    assert "NOT PRIVATE" in version.description


def test_not_before_the_result(tracked: Tracked, tmp_path: Path) -> None:
    from dataclasses import replace

    from folkmoot.exchange import ExchangeStore

    context = replace(tracked.context, store=ExchangeStore(tmp_path), cache={})
    with pytest.raises(ProtocolError, match="no result yet"):
        tracking.register(context)


def tags(value: float | None = None, name: str = "auc", **more: str) -> dict[str, str]:
    metric = {} if value is None else {f"folkmoot.metric.{name}": repr(value)}
    return {**metric, "folkmoot.held_out": "a", **{f"folkmoot.{k}": v for k, v in more.items()}}


@pytest.mark.parametrize(
    ("task", "mine", "champion", "wins", "why"),
    [
        ("binary", tags(0.9), None, True, "no champion"),
        ("binary", tags(0.9), tags(0.8), True, "beats"),
        ("binary", tags(0.8), tags(0.9), False, "does not beat"),
        ("binary", tags(0.9), tags(0.9), False, "does not beat"),
        ("regression", tags(1.0, "rmse"), tags(2.0, "rmse"), True, "beats"),
        ("regression", tags(2.0, "rmse"), tags(1.0, "rmse"), False, "does not beat"),
        ("multiclass", tags(0.9, "accuracy"), tags(0.8, "accuracy"), True, "beats"),
        ("binary", tags(0.9, held_out="b"), tags(0.8), True, "have changed"),
        ("binary", tags(0.9), tags(None), False, "not known of both"),
        ("binary", tags(None), tags(0.8), False, "not known of both"),
        ("binary", tags(0.9, seeded="true"), None, False, "NOT PRIVATE"),
        ("binary", tags(0.9), tags(0.8, private="true"), False, "by hand"),
        ("binary", tags(0.9, private="true"), tags(0.8, private="true"), True, "beats"),
        ("binary", tags(0.9, private="true"), tags(0.8), True, "beats"),
    ],
)
def test_verdict(
    task: str, mine: dict[str, str], champion: dict[str, str] | None, wins: bool, why: str
) -> None:
    won, reason = verdict(task, mine, champion)
    assert won is wins
    assert why in reason
