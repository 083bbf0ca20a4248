"""Several sensitive columns: every model holds for each of them."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.contract import Contract
from folkmoot.errors import DataError, FolkmootError, PrivacyError
from folkmoot.params import Anonymisation
from folkmoot.sections import parse
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.full_domain import Lattice, search
from site_tasks.anonymise.local.conditions import conditions, holds
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    Model,
    TCloseness,
)
from site_tasks.anonymise.models.marginal import OfColumn
from site_tasks.anonymise.one_file import anonymise_file
from site_tasks.anonymise.secret import MOST, Secret
from site_tasks.anonymise.verify import Checker

ILL = Column("ill", False, ("flu", "hiv", "gout"))
PAY = Column("pay", True, (1, 2, 3, 4))
SECRET = Secret((ILL, PAY))
TREE = ((0, 0, 1, 2), (0, 0, 0, 0))
CONTRACT = Contract.model_validate(
    {
        "name": "two",
        "task": "binary",
        "columns": [
            {
                "name": "age",
                "role": "quasi_identifier",
                "type": "integer",
                "bounds": [0, 99],
                "hierarchy": {"widths": [10, 50, 100]},
            },
            {"name": "ill", "role": "sensitive", "type": "category", "categories": [*ILL.domain]},
            {
                "name": "pay",
                "role": "sensitive",
                "type": "category",
                "categories": ["1", "2", "3"],
                "missing": True,
                "ordered": True,
            },
            {"name": "y", "role": "label", "type": "category", "categories": ["0", "1"]},
        ],
    }
)


def of(index: int, model: Model) -> OfColumn:
    column = SECRET.columns[index]
    return OfColumn(model, column.name, index, SECRET.codes(index), column.domain)


def table(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Within ten years of age everybody has one pay, but any illness."""
    draw = np.random.default_rng(seed)
    age = draw.integers(0, 100, rows)
    pay = pd.Series((age // 10 % 3 + 1).astype(str), dtype="object")
    pay[draw.random(rows) < 0.02] = None
    return pd.DataFrame(
        {
            "age": age,
            "ill": draw.choice(ILL.domain, rows),
            "pay": pay,
            "y": draw.choice(["0", "1"], rows),
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=20, max_size=20).filter(any),
    st.lists(st.integers(0, 4), min_size=20, max_size=20),
    st.integers(0, 1),
    st.one_of(
        st.builds(DistinctLDiversity, st.integers(1, 4)),
        st.builds(EntropyLDiversity, st.sampled_from([1.5, 2.0])),
        st.builds(TCloseness, st.sampled_from([0.1, 0.3]), st.sampled_from(["equal", "ordered"])),
        st.builds(AlphaK, st.sampled_from([0.25, 0.5])),
        st.builds(BetaLikeness, st.sampled_from([0.2, 1.0])),
        st.just(TCloseness(0.2, "hierarchical", TREE)),
    ),
)
def test_search_model_and_checker_agree(
    one: list[int], rest: list[int], index: int, model: Model
) -> None:
    if getattr(model, "levels", ()):
        index = 0
    counts = np.array([*one, 0])
    total = counts + np.array([*rest, 0])
    asked = of(index, model)
    column, names = SECRET.columns[index], [*SECRET.columns[index].domain, None]
    own, whole = np.zeros(column.size, int), np.zeros(column.size, int)
    checker = Checker([asked])
    for code, (n, m) in enumerate(zip(one, rest, strict=True)):
        values = SECRET.domain[code]
        own[names.index(values[index])] += n
        whole[names.index(values[index])] += n + m
        checker.add([["class"] * n], [values] * n, rows=n)
        checker.add([["others"] * m], [values] * m, rows=m)
    expected = bool(model.holds(own[None, :], whole)[0])
    assert asked.holds(counts[None, :], total)[0] == expected
    assert (
        holds(counts, *conditions(1, (of(1 - index, DistinctLDiversity(1)), asked), total).arrays)
        == expected
    )
    others = whole - own
    fails = int(not expected) + (others.any() and not model.holds(others[None, :], whole)[0])
    found = checker.problems()
    assert len(found) == (fails > 0)
    assert all(f"of {column.name}" in text and f"in {fails} of" in text for text in found)


def test_the_lattice_asks_for_each_column() -> None:
    frame = table()
    draw = np.random.default_rng(1)
    codes = np.asfortranarray(frame[["age"]].to_numpy(np.int32))
    groups = (np.arange(100) // 10, np.arange(100) // 50, np.zeros(100, int))
    age = Column("age", True, tuple(range(100)), tuple(g.astype(np.int32) for g in groups))
    pay = frame["pay"].fillna("4").astype(int).to_numpy() - 1
    joint = np.ravel_multi_index((draw.integers(0, 3, len(frame)), pay), (4, 5)).astype(np.int32)
    coded = Coded((age,), codes, joint, SECRET.domain)
    ask = [KAnonymity(5), of(0, DistinctLDiversity(3)), of(1, DistinctLDiversity(3))]
    found = search(coded, ask, limit=0.0)
    assert found.levels == {"age": 2}  # ten years have one pay, illnesses would do
    assert search(coded, ask[:2], limit=0.0).levels == {"age": 1}
    assert Lattice.of(coded.columns).nodes == found.nodes


@pytest.mark.parametrize(
    "values",
    [
        {"recoding": "local", "k": 5},
        {"recoding": "local", "k": 5, "method": "relaxed"},
        {"recoding": "public", "k": 5, "levels": {"age": 2}},
    ],
)
def test_a_file_with_two_sensitive_columns(values: dict[str, Any], tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    table().to_csv(source, index=False)
    asked = {**values, "l_diversity": {"l": 2}, "t_closeness": {"t": 0.6}}
    anonymise_file(
        source, target, CONTRACT, Anonymisation.model_validate(asked), report=tmp_path / "risk"
    )
    made = pd.read_csv(target, dtype=str, keep_default_na=False)
    for column in ("ill", "pay"):
        whole = Counter(made[column])
        for _, rows in made.groupby("age"):
            seen = Counter(rows[column])
            assert len(rows) >= 5
            assert len(seen) >= 2
            far = sum(
                abs(Fraction(seen[v], len(rows)) - Fraction(whole[v], len(made))) for v in whole
            )
            assert far / 2 <= Fraction(6, 10)
    report = json.loads((tmp_path / "risk" / "risk.json").read_text())
    assert report["sensitive"] == ["ill", "pay"]
    assert report["after"]["sensitive"]["pay"]["distinct_l"] >= 2
    # One column alone is protected where the plan names it: then a class of one pay may stand.
    one = {**values, "sensitive": "ill", "l_diversity": {"l": 2}}
    if values["recoding"] == "local":
        anonymise_file(
            source, target, CONTRACT, Anonymisation.model_validate(one), report=tmp_path / "risk"
        )
        made = pd.read_csv(target, dtype=str, keep_default_na=False)
        assert made.groupby("age")["pay"].nunique().min() == 1


def test_what_one_column_cannot_reach_is_named() -> None:
    frame = table()
    frame["pay"] = "2"
    with pytest.raises(DataError, match=r"l = 2.* pay has 1 values"):
        _public(frame)


def test_combinations_have_a_limit() -> None:
    wide = [Column(name, False, tuple(range(70))) for name in "ab"]
    with pytest.raises(FolkmootError, match=f"a, b have more than {MOST} combinations"):
        Secret(tuple(wide))
    with pytest.raises(FolkmootError, match="names a column twice"):
        parse(Anonymisation, {"sensitive": ["ill", "ill"]}, source="params.yaml")


def test_the_checker_refuses_one_bad_column() -> None:
    checker = Checker([of(0, DistinctLDiversity(2)), of(1, DistinctLDiversity(2))])
    checker.add([["x"] * 4], [("flu", 1), ("hiv", 1), ("gout", 1), (None, 1)], rows=4)
    with pytest.raises(PrivacyError, match="of pay does not hold in 1 of 1 classes"):
        checker.demand()


def _public(frame: pd.DataFrame) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.csv"
        frame.to_csv(source, index=False)
        values = {"k": 5, "levels": {"age": 2}, "l_diversity": {"l": 2}}
        settings = Anonymisation.model_validate(values)
        anonymise_file(source, source.with_name("o.csv"), CONTRACT, settings, report=source.parent)
