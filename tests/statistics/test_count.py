"""Whole numbers of one site, and what is told of their sums, against plain numpy and fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from folkmoot.contract import Column, Contract, load_contract
from folkmoot.errors import ConfigError
from folkmoot.params import Params
from folkmoot.privacy.accountant import epsilon
from folkmoot.statistics import answers, count, noise, questions, tree

PRESSURE = Column(name="pressure", bounds=[60.0, 240.0])
AGE = Column(name="age", type="integer", bounds=[0.0, 100.0])


@pytest.fixture(scope="module")
def contract(source: Any) -> Contract:
    return load_contract(source / "contract.yaml")


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    pressure = rng.normal(130, 30, 4001).clip(60, 240)
    pressure[:5] = [60.0, 240.0, 240.0, 71.25, np.nan]  # ends, an inner edge, a missing value
    return {"age": rng.integers(0, 101, 4001).astype(float), "pressure": pressure}


def test_histograms_are_numpys(rows: dict[str, np.ndarray]) -> None:
    found = count.histograms([rows["age"], rows["pressure"]], [AGE, PRESSURE], 16)
    for j, (name, column) in enumerate((("age", AGE), ("pressure", PRESSURE))):
        values = rows[name][~np.isnan(rows[name])]
        edges = questions.edges_of(*column.bounds, 16)
        assert np.array_equal(found[j * 16 : (j + 1) * 16], np.histogram(values, edges)[0])


def test_counts_of_parts_add_up_to_those_of_the_whole(rows: dict[str, np.ndarray]) -> None:
    whole = [rows["age"], rows["pressure"]]
    parts = [[x[:1000] for x in whole], [x[1000:] for x in whole]]
    columns = [AGE, PRESSURE]
    for one in (
        lambda x: count.histograms(x, columns, 8),
        lambda x: count.tree(x, columns, 60),
        lambda x: count.moments(x, columns, 20)["moments.square"],
    ):
        assert np.array_equal(one(whole), one(parts[0]) + one(parts[1]))


def test_moments_are_exact_on_their_grid(rows: dict[str, np.ndarray]) -> None:
    found = count.moments([rows["pressure"]], [PRESSURE], 20)
    values = rows["pressure"][~np.isnan(rows["pressure"])]
    scaled = [round(Fraction((v - 150.0) / 90.0) * 2**20) for v in values.tolist()]
    assert found["moments.count"].tolist() == [len(values)]
    assert found["moments.sum"].tolist() == [sum(scaled)]
    assert found["moments.square"].tolist() == [sum(q * q for q in scaled)]


def test_categories_count_missing_values_apart() -> None:
    codes = [np.array([0, 2, -1, 2], np.int32), np.array([1, 1, 1, -1], np.int32)]
    assert count.counts_by_category(codes, [3, 2]).tolist() == [1, 0, 2, 1, 0, 3, 1]


@pytest.mark.parametrize("seed", range(6))
def test_quantiles_hold_numpys(
    seed: int, asking: Callable[..., Params], contract: Contract
) -> None:
    """The interval that is told holds the smallest value with at least p of the rows up to it."""
    rng = np.random.default_rng(seed)
    chances = sorted({round(float(p), 3) for p in rng.uniform(0.01, 0.99, 4)})
    params = asking(["quantiles"], quantiles=chances, bins=int(rng.integers(2, 30)))
    n = int(rng.integers(40, 900))
    values = [
        rng.integers(0, 101, n).astype(float),
        rng.choice([60.0, 61.5, 240.0, *rng.uniform(60, 240, 40)], n),  # ends and many ties
    ]
    columns = list(questions.numeric(params, contract))
    assert [column.name for column in columns] == ["age", "pressure"]
    intervals = questions.start(params, contract)
    tops = [column.bounds[1] for column in columns]
    sums: dict[str, Any] = {}
    for _ in range(8):
        before = intervals
        sums = {"quantiles": count.ranks(values, before, tops, params.statistics.bins)}
        intervals = answers.narrower(params, contract, sums, before)
        if (intervals == before).all():
            break
    told = answers.answers(params, contract, sums, {"quantiles": 0}, {}, before, 4)["quantiles"]
    for column, own in zip(columns, values, strict=True):
        for entry in told[column.name]:
            true = np.quantile(own, entry["probability"], method="inverted_cdf")
            closed = entry["high"] == column.bounds[1]
            assert entry["low"] <= true
            assert true < entry["high"] or closed
            inside = (own >= entry["low"]) & ((own < entry["high"]) | (own == true))
            assert (
                entry["rows"] >= params.statistics.minimum_cell
                or entry["high"] - entry["low"] > 100 / 31
            )
            assert inside.sum() >= min(entry["rows"], params.statistics.minimum_cell)


def _told(
    params: Params, contract: Contract, sums: dict[str, np.ndarray], **deviations: float
) -> dict[str, Any]:
    grid = questions.resolution(params)
    exponents = {"moments.sum": grid, "moments.square": 2 * grid}
    start = questions.start(params, contract)
    exponents = {name: exponents.get(name, 0) for name in sums}
    return answers.answers(params, contract, sums, exponents, deviations, start, 4)


def test_small_cells_are_withheld_and_cannot_be_subtracted(
    asking: Callable[..., Params], contract: Contract
) -> None:
    params = asking(["categories", "classes"], minimum_cell=5)
    sums = {
        "categories": np.array([40, 58, 2, 0, 60, 40, 0]),
        "classes": np.array([3, 97]),
    }
    told = _told(params, contract, sums)
    # `other` alone would follow from the total: the next smallest is withheld as well.
    assert told["categories"]["sex"]["counts"] == {"female": None, "male": 58, "other": None}
    assert told["categories"]["ill"]["counts"] == {"healthy": 60, "ill": 40}
    assert told["classes"] == {
        "column": "ill",
        "counts": {"healthy": None, "ill": None},
        "shares": None,
    }
    few = {
        "moments.count": np.array([4, 100]),
        "moments.sum": np.array([7, 7]),
        "moments.square": np.array([9, 9]),
    }
    told = _told(asking(["moments"], minimum_cell=5), contract, few)["moments"]
    assert set(told["age"]) == {"withheld"}
    assert told["pressure"]["count"] == 100


def test_means_and_variances_are_those_of_the_rounded_values(
    asking: Callable[..., Params], contract: Contract, rows: dict[str, np.ndarray]
) -> None:
    params = asking(["moments"])
    grid = questions.resolution(params)
    columns = list(questions.numeric(params, contract))
    found = count.moments([rows[c.name] for c in columns], columns, grid)
    told = _told(params, contract, found)["moments"]
    for column in columns:
        values = rows[column.name][~np.isnan(rows[column.name])]
        low, high = column.bounds
        half, centre = (high - low) / 2, (high + low) / 2
        q = [Fraction(int(v), 2**grid) for v in count.on_grid(values, column, grid)]
        mean = Fraction(centre) + Fraction(half) * sum(q) / len(q)
        square = sum(v * v for v in q) / len(q) - (sum(q) / len(q)) ** 2
        assert told[column.name]["mean"] == float(mean)
        assert told[column.name]["variance"] == float(square * Fraction(half) ** 2)
        assert abs(told[column.name]["mean"] - values.mean()) <= told[column.name]["rounding"]


def test_a_tree_is_made_consistent_and_gains_by_it() -> None:
    rng = np.random.default_rng(0)
    levels = 4
    x = rng.uniform(60, 240, 5000)
    exact = count.tree([x], [PRESSURE], 200).astype(float)
    leaves = np.histogram(x, questions.edges_of(60, 240, 4**levels))[0]
    assert np.allclose(tree.consistent(exact, levels), leaves)
    errors: dict[str, list[float]] = {"leaves": [], "tree": []}
    for _ in range(200):
        nodes = exact + rng.normal(0, 10, exact.size)
        errors["leaves"].append(nodes[-(4**levels) :][:120].sum() - leaves[:120].sum())
        errors["tree"].append(tree.consistent(nodes, levels)[:120].sum() - leaves[:120].sum())
    assert np.std(errors["tree"]) < 0.4 * np.std(errors["leaves"])


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
@pytest.mark.parametrize("placed", ["site", "distributed"])
def test_all_noise_of_a_run_keeps_its_budget(
    relation: str, placed: str, asking: Callable[..., Params], contract: Contract
) -> None:
    ask = ["categories", "classes", "histogram", "moments", "quantiles"]
    params = private(asking, ask, relation=relation, noise=placed)
    planned = noise.planned(params, contract)
    assert sum(planned.values()) == 7
    assert 0.99 < epsilon(dict(planned), 1e-5)[0] <= 1.0
    share = noise.share_of(params, contract)
    # Three of four sites make up a quorum: one may be missing, and three shares are the whole.
    assert share == 1.0 if placed == "site" else math.isclose(share, 1 / math.sqrt(3))


def private(asking: Callable[..., Params], ask: list[str], **more: Any) -> Params:
    privacy = {
        "mechanism": "gaussian",
        "clipping": "record",
        "epsilon": 1.0,
        "rows": 600,
        "evaluation": "none",
        **more,
    }
    return asking(ask, sections={"privacy": privacy})


@pytest.mark.parametrize(
    ("ask", "more", "words"),
    [
        (["moments"], {"columns": ["nonsense"]}, "nonsense"),
        (["auc"], {}, "score"),
        (["auc"], {"score": "sex"}, "three sites"),
        (["median"], {"compute": {"site-a": "localhost:1"}}, "three sites"),
        (["median"], {"compute": {"site-a": "10.0.0.1:1"}}, "compute"),
        (["quantiles"], {"small_cells": "site"}, "rank"),
        ([], {}, "at least one"),
        (["moments"], {"sections": {"privacy": {"mechanism": "clip"}}}, "clipping record"),
        (["overlap"], {"sections": {"aggregation": {"protection": "none"}}}, "masks"),
        (["overlap"], {"overlap_epsilon": 1.0}, "overlap_epsilon"),
    ],
)
def test_what_does_not_fit_is_refused(
    ask: list[str],
    more: dict[str, Any],
    words: str,
    asking: Callable[..., Params],
    contract: Contract,
) -> None:
    with pytest.raises(ConfigError, match=words):
        questions.check_questions(asking(ask, **more), contract)
