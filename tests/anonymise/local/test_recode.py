"""Every method of local recoding against the obvious checker, over random tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.local import recode
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DeltaPresence,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.recoding import Ranges, Recoding
from site_tasks.anonymise.verify_recoding import verify_recoding

METHODS = ["mondrian", "relaxed", "microaggregation"]
MODELS = st.sampled_from(
    [
        (),
        (DistinctLDiversity(2),),
        (EntropyLDiversity(1.6),),
        (RecursiveCLDiversity(2.0, 2),),
        (RecursiveCLDiversity(3.0, 3),),
        (TCloseness(0.2),),
        (TCloseness(0.15, "ordered"),),
        (TCloseness(0.3, "hierarchical", ((0, 0, 1, 1), (0, 0, 0, 0))),),
        (AlphaK(0.7, 3),),
        (BetaLikeness(1.0),),
        (BetaLikeness(0.5, enhanced=False),),
        (DeltaDisclosure(1.5),),
        (DistinctLDiversity(2), TCloseness(0.3), AlphaK(0.8)),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> Coded:
    """Tiny, skewed, all equal, all distinct, with missing values, of one column or several."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = []
    codes = []
    for j in range(draw(st.integers(1, 4))):
        size = draw(st.sampled_from([1, 2, 5, 70, 300]))
        columns.append(Column(f"c{j}", draw(st.booleans()), tuple(range(size))))
        kind = draw(st.sampled_from(["any", "equal", "distinct", "skewed", "missing"]))
        if kind == "equal":
            values = np.full(n, draw(st.integers(0, size)))
        elif kind == "distinct":
            values = np.arange(n) % (size + 1)
        elif kind == "skewed":
            values = np.minimum(rng.geometric(0.5, n) - 1, size)
        else:
            values = rng.integers(0, size + 1, n)
            if kind == "missing":
                values[rng.random(n) < 0.5] = size
        codes.append(rng.permutation(values))
    sensitive = np.minimum(rng.geometric(draw(st.sampled_from([0.3, 0.6])), n) - 1, 3)
    return Coded(
        tuple(columns),
        np.stack(codes, axis=1).astype(np.int32),
        sensitive.astype(np.int32),
        ("a", "b", "c"),
    )


def same_partition(a: Recoding, b: Recoding, order: np.ndarray) -> bool:
    """Whether b, of the rows of a in this order, has the cells of a."""
    return all(
        np.array_equal(a.allowed(j)[a.classes[order]], b.allowed(j)[b.classes])
        for j in range(len(a.columns))
    )


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), k=st.integers(1, 12), models=MODELS)
def test_whatever_is_published_is_proven(method, table, k, models):
    whole = np.bincount(table.sensitive, minlength=4)[None, :]
    possible = table.rows >= max(k, *(getattr(m, "k", 1) for m in models), 1)
    possible &= all(model.holds(whole, whole[0])[0] for model in models)
    if not possible:
        with pytest.raises(DataError) as refused:
            recode(table, k=k, models=models, method=method)
        assert refused.value.code in {"data.too-few-rows", "data.privacy-model"}
        return
    found = recode(table, k=k, models=models, method=method)
    verify_recoding(table, found, (KAnonymity(k), *models))
    assert found.suppressed == 0
    assert found.sizes().min() >= k
    order = np.random.default_rng(0).permutation(table.rows)
    shuffled = replace(table, codes=table.codes[order], sensitive=table.sensitive[order])
    again = recode(shuffled, k=k, models=models, method=method)
    if method == "mondrian":
        assert same_partition(found, again, order)
    else:
        verify_recoding(shuffled, again, (KAnonymity(k), *models))


@settings(max_examples=30, deadline=None)
@given(table=tables(), k=st.integers(1, 6))
def test_equal_input_gives_equal_output(table, k):
    for method in METHODS:
        if table.rows >= k:
            a, b = (recode(table, k=k, method=method) for _ in range(2))
            assert np.array_equal(a.classes, b.classes)
            assert a.loss() == b.loss()


@settings(max_examples=60, deadline=None)
@given(table=tables(), k=st.integers(2, 6))
def test_relaxed_never_loses_more_than_strict(table, k):
    if table.rows >= k:
        strict = recode(table, k=k).loss()
        assert (
            recode(table, k=k, method="relaxed").loss() <= strict + 5e-3
        )  # wide columns are rough


@settings(max_examples=60, deadline=None)
@given(table=tables(), k=st.integers(1, 8), limit=st.sampled_from([0.05, 0.3, 1.0]))
def test_suppression_keeps_k_and_its_limit_and_loses_less(table, k, limit):
    if table.rows < k:
        return
    found = recode(table, k=k, suppression_limit=limit)
    verify_recoding(table, found, (KAnonymity(k),))
    assert found.suppressed <= limit * table.rows
    assert found.loss() <= recode(table, k=k).loss()


def test_an_outlier_is_suppressed_where_that_pays():
    column = Column("age", True, tuple(range(101)))
    codes = np.array([[10, 10]] * 50 + [[100, 100]], np.int32)
    table = Coded((column, replace(column, name="weight")), codes)
    assert recode(table, k=5).loss() == pytest.approx(0.9)
    found = recode(table, k=5, suppression_limit=0.05)
    assert found.classes.tolist() == [0] * 50 + [-1]
    assert found.loss() == pytest.approx(1 / 51)


def test_relaxed_parts_equal_rows_that_strict_cannot():
    column = Column("age", True, tuple(range(11)))
    table = Coded((column,), np.array([[0]] * 7 + [[10]] * 3, np.int32))
    assert recode(table, k=5).count == 1
    found = recode(table, k=5, method="relaxed")
    assert sorted(found.sizes().tolist()) == [5, 5]
    assert found.loss() == pytest.approx(0.5)


def test_a_missing_value_never_widens_a_class_silently():
    column = Column("age", True, tuple(range(11)))
    table = Coded((column,), np.array([[3]] * 3 + [[4]] * 3 + [[11]] * 3, np.int32))
    found = recode(table, k=3)
    cells = found.cells[0]
    assert isinstance(cells, Ranges)
    assert found.count == 3
    assert cells.missing[found.classes].tolist() == [False] * 6 + [True] * 3
    assert found.loss() == 0
    mixed = recode(table, k=4)
    assert mixed.allowed(0)[mixed.classes[8], 11]


def test_one_column_is_grouped_optimally():
    rng = np.random.default_rng(3)
    column = Column("age", True, tuple(range(200)))
    values = np.sort(rng.integers(0, 200, 13))
    table = Coded((column,), values[:, None].astype(np.int32))
    found = recode(table, k=3, method="microaggregation")

    def error(labels):
        return sum(
            ((values[labels == g] - values[labels == g].mean()) ** 2).sum() for g in set(labels)
        )

    def every(start):
        if start == len(values):
            yield ()
        for size in range(3, len(values) - start + 1):
            for rest in every(start + size):
                yield (start, *rest)

    best = min(
        error(np.searchsorted(np.array(cuts), np.arange(len(values)), side="right"))
        for cuts in every(0)
    )
    assert error(found.classes) == pytest.approx(best)


@pytest.mark.parametrize("method", METHODS)
def test_large_parts_are_sampled_and_still_proven(method):
    rng = np.random.default_rng(5)
    columns = tuple(Column(f"c{j}", j % 2 == 0, tuple(range(40))) for j in range(4))
    n = 60_000 if method == "mondrian" else 4_000
    codes = rng.integers(0, 40, (n, 4)).astype(np.int32)
    table = Coded(columns, codes, (codes[:, 0] % 3).astype(np.int32), ("a", "b", "c"))
    models = (DistinctLDiversity(2), TCloseness(0.5))
    found = recode(table, k=5, models=models, method=method)
    counts = np.zeros((found.count, 4), np.int64)
    np.add.at(counts, (found.classes, table.sensitive), 1)
    assert counts.sum(axis=1).min() >= 5
    assert all(model.holds(counts, counts.sum(axis=0)).all() for model in models)
    assert found.cover(codes).all()
    order = rng.permutation(n)
    shuffled = replace(table, codes=codes[order], sensitive=table.sensitive[order])
    if method == "mondrian":
        again = recode(shuffled, k=5, models=models)
        assert again.loss() == pytest.approx(found.loss(), abs=1e-12)


def test_wide_columns_and_many_columns_need_more_than_one_word():
    rng = np.random.default_rng(6)
    columns = tuple(
        Column(f"c{j}", j % 3 == 0, tuple(range(5000 if j < 2 else 100))) for j in range(12)
    )
    codes = np.stack([rng.integers(0, column.size, 400) for column in columns], axis=1)
    table = Coded(columns, codes.astype(np.int32))
    found = recode(table, k=4)
    verify_recoding(table, found, (KAnonymity(4),))
    assert found.count > 50


def test_a_shuffled_index_changes_nothing():
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"age": rng.integers(0, 50, 300), "sex": rng.choice(["f", "m"], 300)})
    columns = [Column("age", True, tuple(range(50))), Column("sex", False, ("f", "m"))]
    one = recode(Coded.from_frame(frame, columns), k=5)
    frame.index = rng.permutation(300) + 1000
    assert np.array_equal(recode(Coded.from_frame(frame, columns), k=5).classes, one.classes)


def test_refusals_name_the_remedy():
    column = Column("age", True, tuple(range(11)))
    table = Coded((column,), np.zeros((5, 1), np.int32))
    with pytest.raises(DataError, match="5 rows, fewer than k = 6"):
        recode(table, k=6)
    with pytest.raises(DataError, match="fewer than k = 9"):
        recode(table, k=2, models=(KAnonymity(9),))
    with pytest.raises(ConfigError, match="sensitive column"):
        recode(table, k=2, models=(DistinctLDiversity(2),))
    with pytest.raises(ConfigError, match="another table"):
        recode(table, k=2, models=(DeltaPresence(0.0, 0.5),))
    with pytest.raises(ConfigError, match="no method"):
        recode(table, k=2, method="none")
    with pytest.raises(ConfigError, match="look alike"):
        recode(table, k=2, models=(DeltaDisclosure(1.0, absent=True),), method="relaxed")
    assert recode(table, k=5, models=(KMap(5),)).count == 1
