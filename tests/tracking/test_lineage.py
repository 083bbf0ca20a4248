"""From a model to its dataset versions and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from folkmoot.cli import lineage as command
from folkmoot.errors import ConfigError
from folkmoot.plan import keys
from pipelines.coordinator.lineage import made_of, went_into
from pipelines.coordinator.open_round import load_json

from .conftest import Tracked


@pytest.mark.parametrize(
    "name",
    ["clinic-linear", "clinic-linear@champion", "models:/clinic-linear/1", "first", "DIGEST"],
)
def test_model_to_datasets(tracked: Tracked, name: str) -> None:
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    wanted = result["model_digest"][:10] if name == "DIGEST" else name
    found = made_of(tracked.params, tracked.workspace, wanted)
    assert (found.name, found.version, found.run) == ("clinic-linear", 1, "first")
    assert found.aliases == ("candidate", "champion")
    assert found.datasets == {site: [fp] for site, fp in result["datasets"].items()}
    assert found.model_digest == result["model_digest"]
    assert found.metrics == result["metrics"]["overall"]
    assert (found.private, found.epsilon) == (False, None)


@pytest.mark.parametrize("name", ["clinic-liner", "clinic-linear@old", "clinic-linear/7", "abcdef"])
def test_unknown_models_are_told_the_nearest(tracked: Tracked, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made_of(tracked.params, tracked.workspace, name)
    assert "clinic-linear" in caught.value.remedy


def test_dataset_to_models(tracked: Tracked) -> None:
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    fingerprint = result["datasets"]["south"]
    for prefix in (fingerprint, fingerprint[:8]):
        (found,) = went_into(tracked.params, tracked.workspace, prefix)
        assert found.version == 1
    other = "0" if fingerprint[0] != "0" else "1"
    assert went_into(tracked.params, tracked.workspace, other + fingerprint[1:]) == []


@pytest.fixture
def params_file(tracked: Tracked, tmp_path: Path) -> Path:
    values = tracked.params.model_dump(mode="json")
    values["federation"]["workspace"] = str(tracked.workspace)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def invoke(*arguments: str) -> str:
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_command(tracked: Tracked, params_file: Path) -> None:
    result = load_json(tracked.context, keys.RESULT)
    assert result is not None
    fingerprint = result["datasets"]["north"]
    where = ("--params", str(params_file))
    as_json = json.loads(invoke("clinic-linear@champion", "--json", *where))
    assert as_json["datasets"]["north"] == [fingerprint]
    assert as_json["aliases"] == ["candidate", "champion"]
    table = invoke("clinic-linear", *where)
    assert "north" in table
    assert fingerprint[:20] in table
    found = json.loads(invoke("--dataset", fingerprint[:12], "--json", *where))
    assert [(m["name"], m["version"]) for m in found["models"]] == [("clinic-linear", 1)]
    assert "clinic-linear" in invoke("--dataset", fingerprint[:12], *where)
    assert "No registered model" in invoke("--dataset", "zz", *where)
    assert "clinic-linear" in invoke(*where)
    with pytest.raises(ConfigError, match="both"):
        invoke("clinic-linear", "--dataset", fingerprint, *where)
