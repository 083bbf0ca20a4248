from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.contract import Column, Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.features import encode_frame, encode_label, feature_space
from folkmoot.generalisation import generalise_numbers, generalised
from folkmoot.params import Anonymisation

from .conftest import rows

PLAIN = Anonymisation()
LEVELS = Anonymisation(levels={"age": 2, "region": 1})


def one(**values: object) -> pd.DataFrame:
    frame = rows(1)
    for name, value in values.items():
        frame[name] = [value]
    return frame


def test_linear_features(contract: Contract) -> None:
    space = feature_space(contract, PLAIN, "linear")
    assert space.names == (
        "age",
        "region=east",
        "region=south",
        "region=west",
        "region__missing",
        "smoker=true",
        "grade=2",
        "grade=3",
        "dose",
        "marker",
        "marker__missing",
    )
    assert set(space.types) == {"q"}
    assert space.lower.tolist() == [18, 0, 0, 0, 0, 0, 0, 0, 0, -5, 0]
    assert space.upper.tolist() == [90, 1, 1, 1, 1, 1, 1, 1, 100, 5, 1]
    frame = one(age=40, region="south", smoker=True, grade=3, dose=2.5, marker=np.nan)
    found = encode_frame(frame, contract, PLAIN, "linear")
    np.testing.assert_array_equal(found, [[40, 0, 1, 0, 0, 1, 0, 1, 2.5, np.nan, 1]])
    missing = encode_frame(one(region=None), contract, PLAIN, "linear")
    assert missing[0, 1:5].tolist() == [0, 0, 0, 1]


def test_tree_features(contract: Contract) -> None:
    space = feature_space(contract, PLAIN, "trees")
    assert space.names == ("age", "region", "smoker", "grade", "dose", "marker")
    assert space.types == ("q", "c", "q", "c", "q", "q")
    frame = pd.concat([one(region="west", smoker=False, grade=2), one(region=None, smoker=True)])
    found = encode_frame(frame, contract, PLAIN, "trees", np.float32)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found[:, 1], [3, np.nan])
    assert found[:, 2].tolist() == [0, 1]
    assert found[0, 3] == 1


@pytest.mark.parametrize("kind", ["linear", "trees"])
@pytest.mark.parametrize("levels", [PLAIN, LEVELS, Anonymisation(levels={"region": 2, "age": 3})])
def test_width_is_that_of_the_space(contract: Contract, kind: str, levels: Anonymisation) -> None:
    space = feature_space(contract, levels, kind)  # type: ignore[arg-type]
    found = encode_frame(rows(50), contract, levels, kind)  # type: ignore[arg-type]
    assert found.shape == (50, len(space))
    with np.errstate(invalid="ignore"):
        assert not (found < space.lower).any()
        assert not (found > space.upper).any()


def test_generalised_values(contract: Contract) -> None:
    frame = pd.concat(
        [one(age=age, region=r) for age, r in [(18, "north"), (27, "east"), (90, None)]]
    )
    found = encode_frame(frame, contract, LEVELS, "linear")
    assert feature_space(contract, LEVELS, "linear").names[:3] == (
        "age",
        "region=lower",
        "region__missing",
    )
    # Intervals of 10 years from 18; the last one, [88, 90], is cut off by the upper bound.
    assert found[:, 0].tolist() == [23, 23, 89]
    assert found[:, 1].tolist() == [0, 1, 0]
    assert found[:, 2].tolist() == [0, 0, 1]


@given(
    st.floats(-10, 10),
    st.floats(0.1, 30),
    st.floats(0.01, 40),
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_intervals(lower: float, span: float, width: float, shares: list[float]) -> None:
    column = Column.model_validate(
        {
            "name": "x",
            "role": "quasi_identifier",
            "bounds": [lower, lower + span],
            "hierarchy": {"widths": [width]},
        }
    )
    upper = lower + span
    values = np.minimum(lower + np.array(shares) * span, upper)
    found = generalise_numbers(values, column, 1)
    assert (found >= lower).all()
    assert (found <= upper).all()
    assert (np.abs(found - values) <= width / 2 + 1e-9).all()
    assert len(np.unique(found)) <= np.ceil(span / width)
    np.testing.assert_array_equal(generalise_numbers(found, column, 1), found)
    # A value beyond the public bounds tells nothing more than the outermost interval.
    beyond = generalise_numbers(np.array([lower - 99, upper + 99]), column, 1)
    assert lower <= beyond[0] <= beyond[1] <= upper


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([True, False, True]),
        pd.Series([True, False, True], dtype="boolean"),
        pd.Series([1, 0, 1]),
        pd.Series([1.0, 0.0, 1.0]),
        pd.Series(["true", "false", "True"]),
        pd.Series(["true", "false", "true"], dtype="category"),
    ],
    ids=["bool", "boolean", "int", "float", "text", "category"],
)
def test_spellings_of_booleans(contract: Contract, values: pd.Series) -> None:
    frame = rows(3).assign(smoker=values)
    assert encode_frame(frame, contract, PLAIN, "trees")[:, 2].tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "str", "category", "object"])
def test_spellings_of_whole_numbers(contract: Contract, kind: str) -> None:
    values = pd.Series([1, 3, 2])
    values = values.astype("str") if kind == "str" else values.astype(kind)  # type: ignore[call-overload]
    frame = rows(3).assign(grade=values)
    assert encode_frame(frame, contract, PLAIN, "trees")[:, 3].tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("grade", 4711, "outside the public categories in 1 rows"),
        ("grade", None, "missing values in 1 rows"),
        ("dose", np.nan, "missing values in 1 rows"),
        ("dose", "4711", "does not hold numbers"),
    ],
)
def test_bad_values(contract: Contract, column: str, value: object, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        encode_frame(one(**{column: value}), contract, PLAIN, "linear")
    assert column in str(caught.value)
    assert "4711" not in str(caught.value)


def test_absent_column(contract: Contract) -> None:
    with pytest.raises(DataError, match="Column dose is missing") as caught:
        encode_frame(rows(3).drop(columns="dose"), contract, PLAIN, "linear")
    assert caught.value.code == "data.column"


def test_only_inputs_are_needed(contract: Contract) -> None:
    frame = rows(3)
    bare = frame.drop(columns=["patient", "outcome"])[::-1][::-1]
    np.testing.assert_array_equal(
        encode_frame(bare, contract, PLAIN, "linear"),
        encode_frame(frame, contract, PLAIN, "linear"),
    )


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({"age": 4}, "ends at level 3"),
        ({"dose": 1}, "no quasi-identifier"),
        ({"aeg": 1}, "no quasi-identifier"),
    ],
)
def test_levels_beyond_the_hierarchy(contract: Contract, levels: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        feature_space(contract, Anonymisation(levels=levels), "linear")


def test_labels(contract: Contract) -> None:
    assert encode_label(pd.Series(["yes", "no"]), contract).tolist() == [1, 0]
    assert encode_label(pd.Series(["yes", "no"]), contract).dtype == np.int64
    with pytest.raises(DataError, match="missing values in 1 rows"):
        encode_label(pd.Series(["yes", None]), contract)
    with pytest.raises(
        DataError, match="outcome has values outside the public categories in 2 rows"
    ):
        encode_label(pd.Series(["yes", "perhaps", "never"]), contract)


def test_numeric_labels() -> None:
    contract = Contract.model_validate(
        {
            "name": "r",
            "task": "regression",
            "columns": [
                {"name": "x", "bounds": [0, 1]},
                {"name": "y", "role": "label", "bounds": [0, 9]},
            ],
        }
    )
    found = encode_label(pd.Series([1, 9]), contract)
    assert found.dtype == np.float64
    assert found.tolist() == [1, 9]
    with pytest.raises(DataError, match="missing values in 1 rows"):
        encode_label(pd.Series([1.0, None]), contract)


def test_generalised_contract_has_no_original_category(contract: Contract) -> None:
    table = generalised(contract, LEVELS)
    region = next(c for c in table.columns if c.name == "region")
    assert region.categories == ["upper", "lower"]
    assert (
        feature_space(table, PLAIN, "linear").names
        == feature_space(contract, LEVELS, "linear").names
    )
