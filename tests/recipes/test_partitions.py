"""Dealing rows: every row once, seeded, and as skewed as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Params, parse_params
from folkmoot.sections import parse
from pipelines.recipes import partition
from pipelines.recipes.partitions import assign
from pipelines.recipes.rows import FrameRows

CONTRACT = parse(
    Contract,
    {
        "name": "small",
        "task": "binary",
        "columns": [
            {"name": "x", "bounds": [-10.0, 10.0]},
            {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    },
    source="test",
)
N = 4000


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "x": rng.standard_normal(N),
            "y": np.where(rng.random(N) < 0.3, "yes", "no"),
            "ward": np.array(["north", "east", "south", "west"])[rng.integers(0, 4, N)],
            "row": np.arange(N),
        }
    )


def params(sites: int = 4, **wanted: Any) -> Params:
    names = [f"site-{i:02d}" for i in range(sites)]
    return parse_params({"federation": {"sites": names}, "data": {"partition": wanted}})


KINDS: list[dict[str, Any]] = [
    {"kind": "iid"},
    {"kind": "natural", "column": "ward"},
    {"kind": "dirichlet", "alpha": 0.3},
    {"kind": "quantity", "alpha": 0.3},
    {"kind": "feature_shift", "column": "x"},
]


@pytest.mark.parametrize("wanted", KINDS, ids=lambda wanted: wanted["kind"])
def test_every_row_goes_to_one_site_and_the_same_again(wanted: dict[str, Any]) -> None:
    site = assign(FrameRows(frame()), CONTRACT, params(**wanted))
    assert site.shape == (N,)
    assert set(np.unique(site)) == {0, 1, 2, 3}
    assert np.array_equal(site, assign(FrameRows(frame()), CONTRACT, params(**wanted)))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
def test_another_seed_deals_otherwise(kind: str) -> None:
    rows = FrameRows(frame())
    first, second = (assign(rows, CONTRACT, params(kind=kind, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_iid_is_even() -> None:
    counts = np.bincount(assign(FrameRows(frame()), CONTRACT, params(7)))
    assert counts.max() - counts.min() <= 1


def test_smaller_alpha_skews_labels_more() -> None:
    def spread(alpha: float) -> float:
        site = assign(FrameRows(frame()), CONTRACT, params(kind="dirichlet", alpha=alpha))
        shares = frame().groupby(site)["y"].agg(lambda y: (y == "yes").mean())
        return float(shares.max() - shares.min())

    assert spread(0.3) > 3 * spread(1000.0)


def test_quantity_skews_sizes_and_not_labels() -> None:
    site = assign(FrameRows(frame()), CONTRACT, params(kind="quantity", alpha=0.5))
    counts = np.bincount(site)
    assert counts.max() > 2 * counts.min()
    assert counts.min() >= 10


def test_feature_shift_moves_the_column_and_overlaps() -> None:
    table = frame()
    site = assign(FrameRows(table), CONTRACT, params(kind="feature_shift", column="x"))
    x = table["x"].to_numpy()
    means = [x[site == i].mean() for i in range(4)]
    assert means == sorted(means)
    assert x[site == 0].max() > x[site == 1].min()


def test_feature_shift_takes_categories_and_missing_values() -> None:
    table = frame()
    table.loc[:50, "ward"] = None
    site = assign(FrameRows(table), CONTRACT, params(kind="feature_shift", column="ward"))
    assert set(np.unique(site)) == {0, 1, 2, 3}


def test_natural_follows_equal_names_else_their_order() -> None:
    named = parse_params(
        {
            "federation": {"sites": ["west", "south", "north", "east"]},
            "data": {"partition": {"kind": "natural", "column": "ward"}},
        }
    )
    dealt = partition(frame().assign(x=frame()["row"] / N), CONTRACT, named)
    ward = frame()["ward"]
    for name, part in dealt.items():
        rows = np.round(part["x"] * N).astype(int)
        assert set(ward.iloc[rows]) == {name}
    other = partition(frame(), CONTRACT, params(kind="natural", column="ward"))
    assert [len(part) for part in other.values()] == [
        (ward == name).sum() for name in ("east", "north", "south", "west")
    ]


def test_a_site_gets_the_contracts_columns_alone_and_in_order() -> None:
    dealt = partition(frame(), CONTRACT, params())
    assert all(list(part.columns) == ["x", "y"] for part in dealt.values())
    assert sum(map(len, dealt.values())) == N


@pytest.mark.parametrize("kind", ["natural", "feature_shift"])
def test_an_unknown_column_is_named(kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign(FrameRows(frame()), CONTRACT, params(kind=kind, column="wrad"))
    assert caught.value.code == "data.column"
    assert "wrad" in caught.value.message
    assert "ward" in caught.value.remedy


def test_natural_needs_one_value_per_site() -> None:
    with pytest.raises(ConfigError, match=r"4 values, .* 3 sites") as caught:
        assign(FrameRows(frame()), CONTRACT, params(3, kind="natural", column="ward"))
    assert "north" not in str(caught.value)


def test_natural_refuses_missing_values() -> None:
    table = frame()
    table.loc[:4, "ward"] = None
    with pytest.raises(DataError, match="missing in 5 rows"):
        assign(FrameRows(table), CONTRACT, params(kind="natural", column="ward"))


def test_fewer_rows_than_sites() -> None:
    with pytest.raises(DataError, match="3 rows cannot be dealt to 4 sites"):
        assign(FrameRows(frame().head(3)), CONTRACT, params())


def test_a_skew_that_leaves_a_site_empty_is_told() -> None:
    with pytest.raises(DataError) as caught:
        assign(FrameRows(frame().head(40)), CONTRACT, params(30, kind="quantity", alpha=0.01))
    assert caught.value.code == "data.too-few-rows"
    assert "alpha" in caught.value.remedy
