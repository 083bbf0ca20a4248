"""``dvc.yaml`` as rendered: what each stage watches, and when rendering is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from folkmoot.errors import ConfigError
from pipelines.hosts.dvc_project import Project

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project_of(tmp_path: Path) -> Any:
    (tmp_path / ".dvc").mkdir()

    def make(values: dict[str, Any]) -> Project:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        return Project.beside(tmp_path / "params.yaml")

    return make


def stages(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(project.text())["stages"]
    return found


def test_the_committed_pipeline_is_what_its_params_render() -> None:
    Project.beside(REPOSITORY / "params.yaml").require_fresh()


def test_rendering_again_writes_nothing(project_of: Any) -> None:
    project = project_of({})
    assert project.render()
    stamp = project.pipeline.stat().st_mtime_ns
    assert not project.render()
    assert project.pipeline.stat().st_mtime_ns == stamp


def test_stages_follow_the_plan(project_of: Any) -> None:
    values = {"federation": {"sites": ["b", "a"]}, "model": {"linear": {"rounds": 3}}}
    rendered = stages(project_of(values))
    rounds = [f"round-00{n}" for n in (1, 2, 3)]
    assert list(rendered) == [
        *("sites", "prepare-a", "prepare-b", "initialise"),
        *rounds,
        *("evaluate", "report", "publish"),
    ]
    run = ".folkmoot/exchange/demo/runs/dvc"
    assert rendered["round-002"]["deps"] == [f"{run}/round-001"]
    assert rendered["round-002"]["outs"] == [f"{run}/round-002"]


@pytest.mark.parametrize("recoding", ["public", "agreed"])
def test_anonymising_is_a_stage_of_every_site(project_of: Any, recoding: str) -> None:
    values = {
        "federation": {"sites": ["b", "a"]},
        "data": {"recipe": "synthetic"},
        "anonymisation": {"k": 5, "recoding": recoding},
        "model": {"linear": {"l2": 0.5}},
    }
    project = project_of(values)
    rendered = stages(project)
    names = [name for name in rendered if name.startswith(("anonymise", "prepare"))]
    assert names == ["anonymise-a", "prepare-a", "anonymise-b", "prepare-b"]
    made = rendered["anonymise-a"]
    assert made["params"] == ["anonymisation"]  # neither the model nor how rows are held out
    (out,) = made["outs"]
    assert next(iter(out)).endswith("anonymised/a.json")
    assert next(iter(out)) in rendered["prepare-a"]["deps"]
    schema = ".folkmoot/exchange/demo/runs/dvc/round-000/schema.json"
    assert (schema in made["deps"]) == (recoding == "agreed")
    assert [s.name for s in project.plan.stage("prepare/") if s.place == "a"][-4:] == [
        f"prepare/{name}/a" for name in ("recode", "verify", "report", "encode")
    ]


def test_under_masks_one_stage_settles_and_sets_up(project_of: Any) -> None:
    values = {
        "federation": {"sites": ["b", "a"]},
        "data": {"recipe": "synthetic"},
        "anonymisation": {"k": 5, "recoding": "agreed"},
        "aggregation": {"protection": "masks"},
    }
    rendered = stages(project_of(values))
    assert not [name for name in rendered if name.startswith("agree")]
    run = ".folkmoot/exchange/demo/runs/dvc"
    schema = f"{run}/round-000/schema.json"
    assert rendered["settle"]["outs"] == [schema, f"{schema}.signature", f"{run}/secure"]
    assert f"{run}/secure" in rendered["initialise"]["deps"]
    assert f"{run}/secure" not in rendered["initialise"]["outs"]
    assert {"anonymisation", "aggregation"} <= {*rendered["settle"]["params"]}


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_no_round_watches_the_number_of_rounds(project_of: Any, kind: str) -> None:
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["model"]["kind"] = kind
    rendered = stages(project_of(values))
    other = "trees" if kind == "linear" else "linear"
    for name, stage in rendered.items():
        if name.startswith("round"):
            watched = stage["params"]
            assert not {f"model.{kind}.rounds", "model", f"model.{kind}"} & set(watched)
            assert not [key for key in watched if key.startswith(f"model.{other}")]
            assert f"model.{kind}.strategy" in watched
        if name.startswith("prepare"):
            assert not [k for k in stage["params"] if k.startswith(("model.linear", "model.trees"))]


def test_a_setting_left_to_its_default_is_not_watched(project_of: Any) -> None:
    """DVC refuses to watch a key that the file does not have."""
    rendered = stages(project_of({"model": {"linear": {"l2": 0.5}}}))
    assert rendered["round-001"]["params"] == ["model.linear.l2"]
    assert "params" not in rendered["prepare-site-a"]


def test_each_task_has_its_own_plots(project_of: Any) -> None:
    plots = yaml.safe_load(project_of({"data": {"recipe": "diabetes"}}).text())["plots"]
    assert [next(iter(plot)) for plot in plots] == [
        "rmse over rounds",
        "r2 over rounds",
        "rmse per site",
    ]


@pytest.mark.parametrize(
    ("federation", "said"),
    [({"exchange": "s3://bucket/x"}, "exchange"), ({"workspace": "/elsewhere"}, "workspace")],
)
def test_what_dvc_cannot_manage_is_refused(project_of: Any, federation: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"federation.{said}") as caught:
        project_of({"federation": federation}).text()
    assert caught.value.code == "config.invalid"


def test_a_folder_outside_a_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="DVC repository"):
        Project.beside(tmp_path / "params.yaml").text()


def test_another_file_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        Project.beside(tmp_path / "other.yaml")
