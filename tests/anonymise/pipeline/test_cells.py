"""One numeric space: cells, raw rows and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from folkmoot.cells import interval_text, number_cells, set_cells, set_text
from folkmoot.contract import Column, Contract
from folkmoot.errors import DataError
from folkmoot.features import encode_frame, feature_space
from folkmoot.params import Anonymisation

from .conftest import Anonymise, rows

LOCAL = Anonymisation(recoding="local", k=5)
AGE = Column(name="age", role="quasi_identifier", type="integer", bounds=[0, 99])
REGION = Column(
    name="region", role="quasi_identifier", type="category", categories=["a", "b", '["a"]', "d"]
)


def test_an_interval_is_the_mean_of_the_values_it_allows() -> None:
    texts = [interval_text(10, 19, closed=True), interval_text(7, 7, closed=True), None]
    texts += [interval_text(10, 19, closed=True, missing=True), interval_text(1, 2.5, closed=False)]
    assert texts[:2] == ["[10, 19]", "7"]
    means, missing = number_cells(pd.Series(texts, dtype="str"), AGE)
    np.testing.assert_allclose(means[[0, 1, 3, 4]], [14.5, 7, 14.5, 1.75])
    np.testing.assert_allclose(missing, [0, 0, 1, 1 / 11, 0])
    assert np.isnan(means[2])


def test_a_set_is_shared_out_over_its_categories() -> None:
    texts = [set_text(["b"]), set_text(["a", "b"]), set_text(["a"], missing=True), None, '["a"]']
    shares, missing, unknown = set_cells(pd.Series(texts, dtype="str"), REGION)
    assert unknown == 0
    wanted = [[0, 1, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_allclose(shares, wanted)  # a category that looks like a set is that category
    np.testing.assert_allclose(missing, [0, 0, 0.5, 1, 0])


@pytest.mark.parametrize("text", ['["z"]', "[", "z", "[]", '{"a": 1}', '["a", ["b"]]'])
def test_other_text_is_counted_not_shown(text: str, contract: Contract) -> None:
    *_, unknown = set_cells(pd.Series([text, "a"], dtype="str"), REGION)
    assert unknown == 1
    with pytest.raises(DataError, match=r"age.*in 1 rows"):
        number_cells(pd.Series([text + "secret", "[1, 2]"], dtype="str"), AGE)


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_cells_of_one_value_are_the_raw_row(contract: Contract, kind: str) -> None:
    """A prediction passes the very space that the sites trained in."""
    raw = rows(50)
    told = raw.copy()
    told["age"] = [None if np.isnan(a) else interval_text(a, a, closed=True) for a in raw["age"]]
    told["age"] = told["age"].astype("str")
    told["region"] = pd.Series([r if isinstance(r, str) else None for r in raw["region"]])
    told["weight"] = [f"[{w!r}, {w!r}]" for w in raw["weight"]]
    one = encode_frame(raw, contract, LOCAL, kind)  # type: ignore[arg-type]
    other = encode_frame(told, contract, LOCAL, kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(one, other)
    assert one.shape[1] == len(feature_space(contract, LOCAL, kind))  # type: ignore[arg-type]


def test_cells_hold_the_rows_they_stand_for(contract: Contract, anonymise: Anonymise) -> None:
    frame = rows(200)
    report, table = anonymise(frame, recoding="local", k=5)
    assert report.suppressed == 0
    assert (
        table.groupby(["age", "region", "weight", "smoker"], dropna=False, observed=True).size()
        >= 5
    ).all()
    encoded = encode_frame(table, contract, LOCAL, "trees")
    raw = encode_frame(frame, contract, LOCAL, "trees")
    names = feature_space(contract, LOCAL, "trees").names
    regions = [i for i, name in enumerate(names) if name.startswith("region=")]
    assert (encoded[:, regions][raw[:, regions] == 1] > 0).all()
    assert (np.abs(encoded[:, names.index("weight")] - raw[:, names.index("weight")]) <= 100).all()


def test_the_registered_model_carries_the_schema(contract: Contract, tmp_path: Path) -> None:
    import json

    from folkmoot.models.predictor import save

    save(tmp_path, b"model", contract, LOCAL)
    schema = json.loads((tmp_path / "schema.json").read_text())["anonymisation"]
    assert Anonymisation.model_validate(schema) == LOCAL
