"""The search against every node of small lattices, counted one by one."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.agreement import BEYOND, OVER, STEPS
from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.full_domain import Lattice, recode, search
from site_tasks.anonymise.full_domain.regret import regrets
from site_tasks.anonymise.models import (
    AlphaK,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    Model,
    TCloseness,
)

LEVELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
COLUMNS = (
    Column("a", False, tuple("uvwxyz"), (LEVELS, np.minimum(LEVELS, 1), np.zeros(6, np.int32))),
    Column("b", True, (1, 2, 3, 4), (np.array([0, 0, 1, 1], np.int32), np.zeros(4, np.int32))),
    Column("c", False, ("m", "f"), (np.zeros(2, np.int32),)),
)


def table(n: int, seed: int, *, skew: float = 1.0) -> Coded:
    """Rows with missing values, and a sensitive column of three values."""
    rng = np.random.default_rng(seed)
    codes = np.empty((n, 3), np.int32, order="F")
    for j, column in enumerate(COLUMNS):
        weights = rng.dirichlet(np.full(column.size, skew))
        codes[:, j] = rng.choice(column.size, n, p=weights)
    return Coded(COLUMNS, codes, rng.integers(0, 3, n).astype(np.int32), ("r", "s", "t"))


def plainly(coded: Coded, models: list[Model], levels: dict[str, int]) -> tuple[float, int]:
    """Loss and suppressed rows of a node, row by row."""
    rows: dict[tuple[int, ...], list[int]] = {}
    losses = {}
    for i in range(coded.rows):
        key, loss = [], 0.0
        for j, column in enumerate(coded.columns):
            code, level = int(coded.codes[i, j]), levels[column.name]
            if code == column.missing:
                key.append(-1)
                continue
            groups = list(range(len(column.domain))) if level == 0 else column.levels[level - 1]
            key.append(int(groups[code]))
            alike = sum(int(g) == key[-1] for g in groups)
            loss += (alike - 1) / (len(column.domain) - 1)
        rows.setdefault(tuple(key), []).append(i)
        losses[tuple(key)] = loss / len(coded.columns)
    kept = dict(rows)
    kept = {key: of for key, of in kept.items() if _size(models, of)}
    while True:
        reference = [coded.sensitive[i] for of in kept.values() for i in of]
        held = {key: of for key, of in kept.items() if _holds(models, coded, of, reference)}
        if held == kept:
            break
        kept = held
    suppressed = coded.rows - sum(map(len, kept.values()))
    total = suppressed + sum(losses[key] * len(of) for key, of in kept.items())
    return total / coded.rows, suppressed


def _size(models: list[Model], rows: list[int]) -> bool:
    return all(len(rows) >= m.k for m in models if isinstance(m, KAnonymity | AlphaK))


def _holds(models: list[Model], coded: Coded, rows: list[int], reference: list[Any]) -> bool:
    assert coded.sensitive is not None
    values = [int(coded.sensitive[i]) for i in rows]
    shares = np.bincount(values, minlength=4) / len(values)
    whole = np.bincount(reference, minlength=4) / len(reference)
    for model in models:
        if isinstance(model, DistinctLDiversity) and len(set(values)) < model.l:
            return False
        if isinstance(model, EntropyLDiversity):
            some = shares[shares > 0]
            if -(some * np.log(some)).sum() < np.log(model.l) - 1e-9:
                return False
        if isinstance(model, AlphaK) and shares.max() > model.alpha + 1e-9:
            return False
        if isinstance(model, TCloseness) and abs(shares - whole).sum() / 2 > model.t + 1e-9:
            return False
    return True


def nodes() -> list[dict[str, int]]:
    ranges = [range(len(column.levels) + 1) for column in COLUMNS]
    names = [column.name for column in COLUMNS]
    return [dict(zip(names, node, strict=True)) for node in itertools.product(*ranges)]


MODELS: list[list[Model]] = [
    [KAnonymity(2)],
    [KAnonymity(5)],
    [KAnonymity(2), DistinctLDiversity(2)],
    [KAnonymity(2), EntropyLDiversity(1.8)],
    [AlphaK(0.7, 3)],
    [KAnonymity(3), TCloseness(0.25)],
]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.sampled_from([0.1, 1.0]),
    st.sampled_from(MODELS),
    st.sampled_from([0.0, 0.04, 0.3, 1.0]),
)
def test_the_optimum_of_all_nodes(
    n: int, seed: int, skew: float, models: list[Model], limit: float
) -> None:
    coded = table(n, seed, skew=skew)
    every = {tuple(levels.values()): plainly(coded, models, levels) for levels in nodes()}
    within = [loss for loss, gone in every.values() if gone <= limit * n + 1e-9]
    if not within:
        with pytest.raises(DataError) as caught:
            search(coded, models, limit=limit)
        assert caught.value.code == "data.suppression"
        return
    found = search(coded, models, limit=limit)
    assert found.proven
    assert found.loss == pytest.approx(min(within), abs=1e-9)
    assert found.bound == found.loss
    assert every[tuple(found.levels.values())] == pytest.approx((found.loss, found.suppressed))
    made = recode(coded, models, found.levels)
    assert made.suppressed == found.suppressed
    assert made.loss() == pytest.approx(found.loss, abs=1e-9)
    assert made.cover(coded.codes).all()
    if made.count and any(isinstance(model, KAnonymity) for model in models):
        assert made.sizes().min() >= max(m.k for m in models if isinstance(m, KAnonymity))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(5, 40),
    st.integers(0, 10**6),
    st.sampled_from(MODELS),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_codes_of_all_nodes(n: int, seed: int, models: list[Model], limit: float) -> None:
    coded = table(n, seed)
    every = [plainly(coded, models, levels) for levels in nodes()]
    best = min(loss for loss, _ in every)
    found = regrets(coded, models, limit=limit)
    assert found.optimum.loss == pytest.approx(best, abs=1e-9)
    for (loss, gone), code in zip(every, found.codes.tolist(), strict=True):
        if code == BEYOND:
            assert loss - best > STEPS[-1] - 1e-9
            continue
        step = code % OVER
        assert loss - best <= STEPS[step] + 1e-9
        assert step == 0 or loss - best > STEPS[step - 1] - 1e-9
        assert (code >= OVER) == (gone > found.allowed)


def test_missing_is_a_class_of_its_own() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 0], [6, 0, 0], [6, 0, 0], [6, 4, 2]], np.int32, order="F")
    made = recode(Coded(COLUMNS, codes), [KAnonymity(2)], {"a": 3, "b": 2, "c": 1})
    assert made.classes.tolist() == [0, 0, 1, 1, -1]
    assert made.allowed("a")[1].tolist() == [False] * 6 + [True]


def test_row_order_and_index_change_nothing() -> None:
    coded = table(200, 3)
    order = np.random.default_rng(1).permutation(200)
    assert coded.sensitive is not None
    mixed = Coded(
        COLUMNS,
        np.asfortranarray(coded.codes[order]),
        coded.sensitive[order],
        coded.sensitive_domain,
    )
    models = [KAnonymity(3), TCloseness(0.2)]
    assert search(coded, models) == search(mixed, models)


def test_lowest_levels() -> None:
    coded = table(300, 5)
    free = search(coded, [KAnonymity(2)])
    assert free.levels["b"] == 0
    found = search(coded, [KAnonymity(2)], lowest={"b": 1})
    assert found.levels["b"] >= 1
    assert found.nodes == 4 * 2 * 2
    assert found.loss == pytest.approx(
        min(plainly(coded, [KAnonymity(2)], levels)[0] for levels in nodes() if levels["b"] >= 1)
    )


def test_levels_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="column c has no level 2: it ends at level 1"):
        Lattice.of(COLUMNS, {"c": 2})
    with pytest.raises(ConfigError, match="d, which is no quasi-identifier"):
        Lattice.of(COLUMNS, {"d": 1})


def test_numbers_without_intervals() -> None:
    with pytest.raises(ConfigError, match="has no level 1"):
        Lattice.of([Column("x", True, (0.5, 1.5), (), 1.0)])


def test_no_rows_and_too_few() -> None:
    empty = Coded(COLUMNS, np.zeros((0, 3), np.int32, order="F"))
    with pytest.raises(DataError) as caught:
        search(empty, [KAnonymity(2)])
    assert caught.value.code == "data.too-few-rows"
    with pytest.raises(DataError, match="at most 50% of the rows suppressed"):
        search(table(4, 0), [KAnonymity(5)], limit=0.5)


def test_a_time_limit_ends_with_a_bound() -> None:
    coded = table(2_000, 8)
    best = search(coded, [KAnonymity(20)])
    hasty = search(coded, [KAnonymity(20)], time_limit=0.0)
    assert hasty.counted == 1
    assert not hasty.proven
    assert hasty.bound <= best.loss <= hasty.loss


def test_far_fewer_nodes_are_counted_than_there_are() -> None:
    columns = tuple(Column(f"c{j}", False, COLUMNS[0].domain, COLUMNS[0].levels) for j in range(6))
    rng = np.random.default_rng(0)
    coded = Coded(columns, np.asfortranarray(rng.integers(0, 6, (3000, 6)).astype(np.int32)))
    found = search(coded, [KAnonymity(10)], limit=0.05)
    assert found.proven
    assert found.nodes == 4**6
    assert found.counted < found.nodes / 8


def test_large_lattices_are_climbed(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = table(500, 9)
    expected = search(coded, [KAnonymity(5)], limit=0.1)
    module = sys.modules["site_tasks.anonymise.full_domain.search"]
    monkeypatch.setattr(module, "_COUNTED", 1)
    found = search(coded, [KAnonymity(5)], limit=0.1)
    assert found.proven
    assert found.loss == expected.loss


def test_a_population_counts_for_k_map() -> None:
    coded = table(30, 11)
    people = Coded(COLUMNS, np.asfortranarray(np.repeat(coded.codes, 4, axis=0)))
    found = search(coded, [KAnonymity(1), KMap(4)], population=people)
    assert (found.loss, found.suppressed) == (0.0, 0)
    strict = search(coded, [KAnonymity(1), KMap(5)], population=people)
    assert strict.loss > 0
    made = recode(coded, [KMap(5)], strict.levels, population=people)
    assert made.sizes().min() * 4 >= 5


def test_columns_beyond_64_bits() -> None:
    """Ranges of the columns may multiply beyond any machine word."""
    domain = tuple(range(3000))
    levels = (np.arange(3000, dtype=np.int32) // 1500, np.zeros(3000, np.int32))
    columns = tuple(Column(f"c{j}", True, domain, levels) for j in range(7))
    rng = np.random.default_rng(2)
    pool = rng.integers(0, 3000, (20, 7))
    codes = np.asfortranarray(pool[rng.integers(0, 20, 200)].astype(np.int32))
    found = search(Coded(columns, codes), [KAnonymity(2)])
    assert found.loss == 0
    made = recode(Coded(columns, codes), [KAnonymity(2)], found.levels)
    assert made.count == len(np.unique(codes, axis=0))
