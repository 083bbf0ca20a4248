"""A registered model predicts from rows as they stand in a dataset, wherever it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot import metrics
from folkmoot.contract import Column, Contract
from folkmoot.features import encode_label
from folkmoot.models.predictor import Predictor, column_type, example, load, output_columns
from folkmoot.params import Anonymisation, Params
from folkmoot.plan import keys
from pipelines.coordinator import mlflow_store, tracking
from pipelines.coordinator.open_round import load_json
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared

from .conftest import Tracked, settings, train

Workspaces = Callable[[Params], Path]
CASES = {
    "linear-binary": [],
    "trees-binary": ["model.kind=trees", "model.trees.rounds=3"],
    "linear-regression": ["data.recipe=diabetes"],
    "trees-regression": ["data.recipe=diabetes", "model.kind=trees", "model.trees.rounds=3"],
    "linear-quasi-identifiers": ["data.recipe=synthetic", "data.rows=600"],
    "trees-quasi-identifiers": [
        "data.recipe=synthetic",
        "data.rows=600",
        "model.kind=trees",
        "model.trees.rounds=3",
    ],
}


def load_version(workspace: Path, params: Params, name: str) -> Any:
    """By its files: `models:/…` would need MLflow's address for the whole process."""
    import mlflow.pyfunc

    client = mlflow_store.connect(params, workspace)
    return mlflow.pyfunc.load_model(client.get_model_version_by_alias(name, "champion").source)


@pytest.mark.parametrize("case", list(CASES))
def test_predicts_as_the_sites_evaluated(case: str, new_workspace: Workspaces) -> None:
    """The pyfunc gives, on each site's own table, what the site itself counted on its test rows."""
    params = settings(f"federation.name={case}", *CASES[case], "model.linear.rounds=5")
    workspace = new_workspace(params)
    context = train(params, case, workspace)
    registered = tracking.register(context)
    model = load_version(workspace, params, registered.name)
    result = load_json(context, keys.RESULT)
    assert result is not None
    task = context.contract.task
    for site in params.federation.members:
        home = SiteHome.find(site, workspace)
        frame = pd.read_parquet(home.dataset)
        predicted = model.predict(frame)
        assert list(predicted.columns) == [name for name, _ in output_columns(context.contract)]
        assert len(predicted) == len(frame)
        held_out = load_prepared(context, home)
        rows = rows_of(frame, context, held_out)
        scores = predicted.iloc[rows]
        labels = np.asarray(held_out.labels("test"))
        if task == "regression":
            counts = metrics.count(task, labels, scores["prediction"].to_numpy(), 0)
        else:
            positive = scores.iloc[:, 2].to_numpy()
            counts = metrics.count(task, labels, positive, 2)
            codes = encode_label(scores["prediction"], context.contract)
            assert (codes == (positive > 0.5)).all()
        for name, value in metrics.metrics(task, counts).items():
            assert value == pytest.approx(result["metrics"]["sites"][site][name], rel=1e-4), name
    if case == "trees-binary":
        tracking.sync(context)
        artifacts = workspace / "coordinator" / "mlartifacts"
        assert {"importance.png", "contributions.json"} <= {p.name for p in artifacts.rglob("*.*")}
        told = json.loads(next(artifacts.rglob("importance.json")).read_text())
        assert "splits" in told["what"], "gains of whole trees stay at the sites"
        assert sum(told["importance"].values()) == pytest.approx(1.0)


def rows_of(frame: pd.DataFrame, context: Any, prepared: Any) -> list[int]:
    """Positions in the table of the site's held-out rows, found by their encoded features."""
    from folkmoot.features import encode_frame

    kind = context.params.model.kind
    encoded = encode_frame(frame, context.contract, context.params.anonymisation, kind)
    where = {row.tobytes(): i for i, row in enumerate(np.nan_to_num(encoded, nan=-9e9))}
    test = np.nan_to_num(np.asarray(prepared.matrix("test"), np.float64), nan=-9e9)
    return [where[row.tobytes()] for row in test]


LOAD = """
import json, sys
import pandas as pd, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
frame = pd.read_parquet(sys.argv[3])
import folkmoot
print(json.dumps({
    "folkmoot": folkmoot.__file__,
    "raw": type(model.get_raw_model()).__module__,
    "prediction": model.predict(frame)["prediction"].tolist(),
    "example": model.predict(model.input_example)["prediction"].tolist(),
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


@pytest.mark.slow
def test_loads_without_folkmoot_in_a_fresh_process(tracked: Tracked, tmp_path: Path) -> None:
    """Another folder, no PYTHONPATH: the model brings the code it needs, and no more than that."""
    uri = mlflow_store.tracking_uri(tracked.params, tracked.workspace)
    table = tracked.workspace / "sites" / "north" / "data" / "dataset.parquet"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and "MLFLOW" not in k}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the model lies in the store that others look at
    done = subprocess.run(
        [sys.executable, "-c", LOAD, uri, "models:/clinic-linear@champion", str(table)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    artefacts = tracked.workspace / "coordinator" / "mlartifacts"
    assert Path(found["folkmoot"]).is_relative_to(artefacts)
    assert found["raw"].startswith("sklearn.")
    here = load_version(tracked.workspace, tracked.params, "clinic-linear")
    assert found["prediction"] == here.predict(pd.read_parquet(table))["prediction"].tolist()
    assert len(found["example"]) == 1
    assert not {"site_tasks", "pipelines", "airflow", "dvc", "pandera"} & set(found["modules"])


@pytest.fixture(scope="module")
def model(tracked: Tracked) -> Any:
    return load_version(tracked.workspace, tracked.params, "clinic-linear")


@pytest.fixture
def frame(tracked: Tracked) -> pd.DataFrame:
    return pd.read_parquet(tracked.workspace / "sites" / "south" / "data" / "dataset.parquet")


def test_raw_model_is_scikit_learns(model: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    assert isinstance(model.get_raw_model()[-1], LogisticRegression)


def test_input_example_is_made_of_public_bounds(model: Any, tracked: Tracked) -> None:
    shown = model.input_example
    for column in tracked.context.contract.inputs:
        assert column.bounds is not None
        assert shown[column.name][0] == pytest.approx(sum(column.bounds) / 2)
    assert set(shown.columns) == {column.name for column in tracked.context.contract.inputs}


def test_order_extra_columns_and_index_do_not_matter(model: Any, frame: pd.DataFrame) -> None:
    expected = model.predict(frame)
    shuffled = frame.sample(frac=1.0, random_state=0).iloc[:, ::-1]
    found = model.predict(shuffled)
    assert (found.index == shuffled.index).all()
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)


def test_no_rows_give_no_predictions(model: Any, frame: pd.DataFrame) -> None:
    found = model.predict(frame.iloc[:0])
    assert found.shape == (0, 3)


def test_an_absent_column_is_named(model: Any, frame: pd.DataFrame) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="mean_area"):
        model.predict(frame.drop(columns="mean_area"))


CONTRACT = Contract(
    name="mixed",
    task="binary",
    columns=[
        Column(name="age", type="integer", bounds=[0.0, 120.0], missing=True),
        Column(name="dose", bounds=[0.0, 10.0], missing=True),
        Column(name="ward", type="category", categories=["a", "b", "c"]),
        Column(name="smoker", type="boolean"),
        Column(name="grade", type="integer", categories=["1", "2", "3"]),
        Column(name="ill", type="integer", role="label", categories=["0", "1"]),
    ],
)


def test_signature_types_follow_the_contract() -> None:
    found = {column.name: column_type(column) for column in CONTRACT.columns}
    assert found == {
        "age": "any",
        "dose": "double",
        "ward": "string",
        "smoker": "boolean",
        "grade": "long",
        "ill": "long",
    }
    assert output_columns(CONTRACT) == [
        ("prediction", "long"),
        ("probability_0", "double"),
        ("probability_1", "double"),
    ]
    row = example(CONTRACT).iloc[0].to_dict()
    assert row == {"age": 60, "dose": 5.0, "ward": "a", "smoker": False, "grade": 1}


def linear_model(coefficients: np.ndarray) -> Any:
    from folkmoot.features import feature_space
    from folkmoot.wire import Artefact

    width = len(feature_space(CONTRACT, Anonymisation(), "linear"))
    meta = {"kind": "linear", "task": "binary", "classes": ["0", "1"], "round": 1, "l2": 1.0}
    arrays = {
        "coef": np.resize(coefficients, (1, width)).astype(np.float64),
        "intercept": np.zeros(1),
        "mean": np.zeros(width),
        "scale": np.ones(width),
    }
    return Artefact("model", meta, arrays)


def test_every_type_is_accepted_as_pandas_holds_it(tmp_path: Path) -> None:
    """Whole, missing and absent values; text, categoricals and booleans; the label's own type."""
    from folkmoot.models.predictor import save
    from folkmoot.wire import encode

    save(tmp_path, encode(linear_model(np.linspace(-1, 1, 5))), CONTRACT, Anonymisation())
    predictor = load(tmp_path)
    plain = pd.DataFrame(
        {
            "age": [20, 30],
            "dose": [1, 2],
            "ward": ["a", "c"],
            "smoker": [True, False],
            "grade": [1, 3],
        }
    )
    expected = predictor.predict(plain)
    assert expected["prediction"].tolist() in ([0, 1], [1, 0], [0, 0], [1, 1])
    assert np.allclose(expected[["probability_0", "probability_1"]].sum(axis=1), 1.0)
    other = plain.astype({"age": "float64", "dose": "Float64", "ward": "category"})
    pd.testing.assert_frame_equal(predictor.predict(other), expected)
    absent = predictor.predict(plain.drop(columns=["age", "dose"]))
    empty = predictor.predict(plain.assign(age=np.nan, dose=None).astype({"dose": float}))
    pd.testing.assert_frame_equal(absent, empty)
    assert isinstance(predictor, Predictor)


def test_several_classes_keep_the_contracts_order() -> None:
    contract = Contract(
        name="three",
        task="multiclass",
        columns=[
            Column(name="x", bounds=[-1.0, 1.0]),
            Column(name="y", role="label", type="category", categories=["c", "a", "b"]),
        ],
    )
    from folkmoot.wire import Artefact

    arrays = {
        "coef": np.array([[-4.0], [0.0], [4.0]]),
        "intercept": np.array([0.0, 1.0, 0.0]),
        "mean": np.zeros(1),
        "scale": np.ones(1),
    }
    meta = {"kind": "linear", "task": "multiclass", "classes": ["c", "a", "b"], "round": 1}
    predictor = Predictor(Artefact("model", meta, arrays), contract, Anonymisation())
    found = predictor.predict(pd.DataFrame({"x": [-1.0, 0.0, 1.0]}))
    assert found["prediction"].tolist() == ["c", "a", "b"]
    assert list(found.columns) == ["prediction", "probability_c", "probability_a", "probability_b"]
    odds = np.exp([[4.0, 1.0, -4.0], [0.0, 1.0, 0.0], [-4.0, 1.0, 4.0]])
    np.testing.assert_allclose(found.iloc[:, 1:], odds / odds.sum(axis=1, keepdims=True))
