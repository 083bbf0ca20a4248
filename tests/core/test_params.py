"""params.yaml: every fault in one error, keys named, values never."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.contract import Contract, load_contract
from folkmoot.errors import ConfigError
from folkmoot.params import Params, load_params, parse_params
from folkmoot.sections import parse

SECRET = "do-not-print-me"


def refused(values: dict[str, object], *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_params(values, overrides)
    assert SECRET not in str(caught.value)
    return caught.value


def test_defaults_hold_and_the_digest_is_stable() -> None:
    assert parse_params({}) == Params()
    assert parse_params({}).digest() == parse_params({"model": {"kind": "linear"}}).digest()
    assert parse_params({}).digest() != parse_params({}, ["model.linear.rounds=9"]).digest()


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"modell": {}}, "config.unknown-key", ["modell", "did you mean model?"]),
        (
            {"model": {"linear": {"learningrate": 1.0}}},
            "config.unknown-key",
            ["model.linear.learningrate", "did you mean learning_rate?"],
        ),
        ({"model": {"linear": {"rounds": "5"}}}, "config.invalid", ["model.linear.rounds"]),
        ({"model": {"linear": {"rounds": 0}}}, "config.invalid", ["model.linear.rounds"]),
        ({"privacy": {"clip_norm": float("inf")}}, "config.invalid", ["privacy.clip_norm"]),
        ({"federation": {"quorum": 5}}, "config.invalid", ["quorum is larger"]),
        ({"federation": {"sites": ["a", "a"]}}, "config.invalid", ["distinct"]),
        ({"federation": {"sites": ["../a"]}}, "config.invalid", ["federation.sites.0"]),
        ({"data": {"recipe": SECRET}}, "config.invalid", ["data.recipe"]),
        ({"data": {"recipe": "csv"}}, "config.invalid", ["path and contract"]),
        ({"privacy": {"mechanism": "gaussian"}}, "config.invalid", ["noise_multiplier"]),
    ],
)
def test_faults_name_the_key(values: dict[str, object], code: str, words: list[str]) -> None:
    error = refused(values)
    assert error.code == code
    assert error.exit_code == 2
    for word in words:
        assert word in error.message


def test_every_fault_is_listed_at_once() -> None:
    error = refused({"modell": 1, "federation": {"quorum": SECRET}, "data": {"rows": 0}})
    for key in ("modell", "federation.quorum", "data.rows"):
        assert key in error.message


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["model.kind=trees", "privacy.mechanism=gaussian", "privacy.noise_multiplier=1.0",
          "data.scaling=bounds", "aggregation.weighting=uniform"], "bounded sensitivity"),
        (["privacy.mechanism=gaussian", "privacy.noise_multiplier=1.0", "data.scaling=bounds",
          "aggregation.weighting=uniform", "model.linear.strategy=fedavg",
          "privacy.evaluation=exact"], "not covered by epsilon"),
        (["privacy.mechanism=gaussian", "privacy.noise_multiplier=1.0", "data.scaling=bounds",
          "aggregation.weighting=uniform", "model.linear.strategy=fedavg",
          "privacy.evaluation=noised"], "needs clipping record, whose schedule pays"),
        (["privacy.mechanism=diffprivlib", "privacy.epsilon=1.0", "data.scaling=bounds",
          "aggregation.weighting=uniform", "model.linear.strategy=local_dp",
          "model.linear.rounds=1", "privacy.evaluation=noised"], "spends its epsilon on training"),
        (["privacy.mechanism=gaussian", "privacy.noise_multiplier=1.0"], "data.scaling"),
        (["privacy.mechanism=gaussian", "privacy.noise_multiplier=1.0", "data.scaling=bounds"],
         "aggregation.weighting"),
        (["model.linear.strategy=local_dp"], "go together"),
        (["privacy.mechanism=gaussian", "privacy.noise_multiplier=4.0", "privacy.epsilon=0.9",
          "data.scaling=bounds", "aggregation.weighting=uniform", "model.linear.strategy=fedavg"],
         "first round alone would spend epsilon 0.926"),
    ],
)  # fmt: skip
def test_plans_that_could_not_be_private_are_refused(overrides: list[str], word: str) -> None:
    assert word in refused({}, *overrides).message


def test_overrides_reach_nested_keys() -> None:
    params = parse_params({}, ["model.linear.rounds=3", "federation.sites=[x, y]"])
    assert params.model.linear.rounds == 3
    assert params.federation.members == ("x", "y")
    refused({}, "model.kind")
    refused({}, "model.kind.deeper=1")


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_params(tmp_path / "absent.yaml")
    assert caught.value.code == "config.missing-file"
    broken = tmp_path / "params.yaml"
    broken.write_text(f"model: [{SECRET}\nx: 1")
    with pytest.raises(ConfigError) as caught:
        load_params(broken)
    assert caught.value.code == "config.syntax"
    assert "line 2" in caught.value.message
    assert SECRET not in str(caught.value)
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="not a mapping"):
        load_params(broken)


def test_contracts_refuse_what_would_need_the_data(tmp_path: Path) -> None:
    label = {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]}

    def contract(*columns: dict[str, object], task: str = "binary") -> Contract:
        return parse(
            Contract, {"name": "c", "task": task, "columns": [*columns]}, source="contract"
        )

    contract({"name": "x", "bounds": [0.0, 1.0]}, label)
    for columns, word in [
        (({"name": "x"}, label), "public bounds"),
        (({"name": "x", "type": "text"}, label), "cannot reach training"),
        (({"name": "x", "bounds": [1.0, 0.0]}, label), "lower before upper"),
        (({"name": "x", "bounds": [0.0, 1.0]}, {"name": "z", "bounds": [0.0, 1.0]}), "role label"),
        (({"name": "x", "type": "category"}, label), "public categories"),
        (({"name": "y", "bounds": [0.0, 1.0]}, label), "distinct"),
    ]:
        with pytest.raises(ConfigError, match=word):
            contract(*columns)
    path = tmp_path / "contract.yaml"
    path.write_text("name: c\ntask: binary\ncolumns: []\ncolums: 1\n")
    with pytest.raises(ConfigError, match="did you mean columns"):
        load_contract(path)


@pytest.mark.parametrize(
    "text",
    [
        "federation: {name: 2020-13-45}",
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 50_000,
        "- " * 50_000,
        "a: !!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
    ],
)
def test_hostile_yaml_is_one_clear_error(tmp_path: Path, text: str) -> None:
    """Among them what libyaml itself would crash on."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert caught.value.code == "config.syntax"
    with pytest.raises(ConfigError) as caught:
        parse_params({}, [f"federation.name={text.partition(': ')[2] or text}"])


def test_a_bomb_of_anchors_is_refused_as_it_stands(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(["a0: &a0 [x]", *levels, "federation: {sites: *a11}"]))
    with pytest.raises(ConfigError, match=r"federation\.sites") as caught:
        load_params(path)
    assert len(str(caught.value)) < 5_000
