"""What stands around partitions: distinct rows, cells, streams, ends, suppressed cells, coding."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.local import recode
from site_tasks.anonymise.local.conditions import conditions, holds
from site_tasks.anonymise.local.distinct import distinct
from site_tasks.anonymise.local.ends import clip_ends, open_ends
from site_tasks.anonymise.local.stream import recode_stream
from site_tasks.anonymise.local.suppression import suppress_cells
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.recoding import Recoding, Sets
from site_tasks.anonymise.verify_recoding import verify_recoding

LEVELS = ((0, 0, 1, 1, 2), (0, 0, 0, 0, 1), (0, 0, 0, 0, 0))


def table(n: int = 5000, seed: int = 0) -> Coded:
    rng = np.random.default_rng(seed)
    columns = (
        Column("age", True, tuple(range(60))),
        Column("job", False, tuple("abcdefgh")),
        Column("region", False, tuple(range(90))),
    )
    codes = np.stack([np.minimum(rng.geometric(4 / c.size, n) - 1, c.size - 1) for c in columns], 1)
    return Coded(columns, codes.astype(np.int32), rng.integers(0, 3, n).astype(np.int32), (0, 1, 2))


def test_distinct_rows_are_those_of_the_plain_way():
    for sensitive in (False, True):
        one, other = table().distinct(sensitive=sensitive), distinct(table(), sensitive=sensitive)
        for name in ("codes", "counts", "inverse", "sensitive"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    many = tuple(Column(str(j), False, tuple(range(1000))) for j in range(9))  # more than 64 bits
    codes = np.random.default_rng(1).integers(0, 2, (5000, 9)).astype(np.int32)
    found = distinct(Coded(many, codes))
    assert np.array_equal(found.codes[found.inverse], codes)
    assert found.counts.sum() == 5000
    assert len(found.counts) == len(np.unique(codes, axis=0))


@settings(max_examples=300, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any),
    rest=st.lists(st.integers(0, 9), min_size=5, max_size=5),
    model=st.one_of(
        st.builds(DistinctLDiversity, st.integers(1, 4)),
        st.builds(EntropyLDiversity, st.sampled_from([1.0, 1.5, 2.0, 3.0])),
        st.builds(RecursiveCLDiversity, st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 6)),
        st.builds(TCloseness, st.sampled_from([0.0, 0.1, 0.25, 0.5])),
        st.builds(TCloseness, st.sampled_from([0.05, 0.2]), st.just("ordered")),
        st.builds(
            TCloseness, st.sampled_from([0.1, 0.3]), st.just("hierarchical"), st.just(LEVELS)
        ),
        st.builds(AlphaK, st.sampled_from([0.25, 0.5, 0.9])),
        st.builds(BetaLikeness, st.sampled_from([0.2, 1.0, 5.0]), st.booleans()),
        st.builds(DeltaDisclosure, st.sampled_from([0.1, 0.7, 2.0]), st.booleans()),
    ),
)
def test_compiled_models_answer_as_the_models_do(counts, rest, model):
    one = np.array(counts)
    total = one + np.array(rest)
    asked = conditions(1, (model,), total)
    assert holds(one, *asked.arrays) == model.holds(one[None, :], total)[0]


def test_a_stream_gives_the_partition_of_the_whole():
    whole = table()
    models = (DistinctLDiversity(2), TCloseness(0.3))
    at_once = recode(whole, k=6, models=models)

    def pieces():
        for start in range(0, whole.rows, 700):
            part = slice(start, start + 700)
            yield replace(whole, codes=whole.codes[part], sensitive=whole.sensitive[part])

    streamed = recode_stream(pieces, k=6, models=models)
    found = [streamed.apply(piece) for piece in pieces()]
    assert np.array_equal(np.concatenate([part.classes for part in found]), at_once.classes)
    assert np.array_equal(streamed.counts, at_once.sizes())
    for j in range(3):
        assert np.array_equal(found[0].allowed(j), at_once.allowed(j))
    other = replace(whole, codes=np.full((1, 3), 59, np.int32), sensitive=whole.sensitive[:1])
    with pytest.raises(DataError, match="changed between"):
        streamed.apply(replace(other, codes=np.array([[59, 7, 88]], np.int32)))
    with pytest.raises(DataError, match="fewer than k"):
        recode_stream(pieces, k=5001)


def test_top_and_bottom_coding():
    whole = table()
    ends = {"age": (5, 20)}
    found = open_ends(recode(clip_ends(whole, ends), k=5), ends)
    verify_recoding(whole, found, (KAnonymity(5),))
    cells = found.cells[0]
    assert cells.high.max() == 59
    assert not ((cells.high > 20) & (cells.high < 59)).any()
    assert not ((cells.low > 0) & (cells.low <= 5)).any()
    assert not ((cells.low > 20) & (cells.low <= cells.high)).any()
    for wrong in ({"job": (None, "c")}, {"none": (1, 2)}, {"age": (None, 99)}, {"age": (9, 3)}):
        with pytest.raises(ConfigError):
            clip_ends(whole, wrong)


def test_cells_are_suppressed_until_every_class_has_k_rows():
    whole = table(400)
    found = suppress_cells(whole, 4, suppression_limit=0.01)
    verify_recoding(whole, found, (KAnonymity(4),))
    widths = found.losses()
    assert set(np.unique(widths)) == {0.0, 1.0}
    assert 0 < found.loss() < 1
    alone = np.array([[0, 0, 0]] * 5 + [[1, 1, 1]], np.int32)
    small = Coded(whole.columns, alone)
    with pytest.raises(DataError, match="1 of 6 rows"):
        suppress_cells(small, 2)
    assert suppress_cells(small, 2, suppression_limit=0.2).classes.tolist() == [0] * 5 + [-1]
    with pytest.raises(DataError, match="fewer than k"):
        suppress_cells(small, 7)


def test_values_become_codes_of_the_public_domain():
    columns = [
        Column("n", True, (1, 2, 3)),
        Column("x", True, (5.0, 15.0), width=10.0),
        Column("b", False, ("false", "true")),
        Column("i", False, ("0", "1")),
    ]
    frame = pd.DataFrame(
        {
            "n": [3.0, np.nan, 1.0, 2.0],
            "x": [0.0, 9.99, 20.0, np.nan],
            "b": [True, False, None, True],
            "i": pd.Categorical([1, 0, 0, None]),
        },
        index=[7, 7, 3, 1],
    )
    expected = [[2, 0, 1, 1], [3, 0, 0, 0], [0, 1, 2, 0], [1, 2, 1, 2]]
    assert Coded.from_frame(frame, columns).codes.tolist() == expected
    with pytest.raises(DataError, match="Column x: 1 values"):
        Coded.from_frame(frame.assign(x=[0, 1, 2, 20.01]), columns)
    with pytest.raises(DataError, match="Column n: 2 values") as refused:
        Coded.from_frame(frame.assign(n=[1, 77, 2, 77]), columns)
    assert "77" not in str(refused.value)
    with pytest.raises(DataError, match="no column b"):
        Coded.from_frame(frame.drop(columns="b"), columns)


def test_numba_is_loaded_by_the_first_call_alone():
    code = (
        "import sys, site_tasks.anonymise.local, site_tasks.anonymise.coded; "
        "sys.exit('numba' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loss_counts_values_and_suppressed_rows():
    columns = (Column("n", True, tuple(range(5))), Column("c", False, tuple("abc")))
    table = Coded(columns, np.array([[0, 0], [2, 1], [5, 2], [4, 3]], np.int32))
    found = recode(table, k=4)
    assert found.losses().tolist() == [[1.0, 1.0]]
    half = recode(replace(table, codes=np.array([[0, 0], [2, 1], [0, 0], [2, 1]], np.int32)), k=4)
    assert half.losses().tolist() == [[0.5, 0.5]]
    gone = Recoding(half.columns, np.array([0, 0, 0, -1], np.int32), half.cells)
    assert gone.loss() == pytest.approx((3 * 0.5 + 1) / 4)
    wide = np.random.default_rng(0).random((7, 130)) < 0.3
    assert np.array_equal(Sets.of(wide).allowed(130), wide)
    assert np.array_equal(Sets.of(wide).counts(), wide.sum(axis=1))
