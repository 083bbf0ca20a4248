"""Two releases must not be subtracted: the attack, carried out on our own output."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.errors import DataError
from site_tasks.anonymise.series import Series, intersections, row_hashes, row_keys
from site_tasks.table import ROW

from .conftest import SECRET, Anonymise, rows

K = 5
QUASI = ["age", "region", "weight", "smoker"]
LOCAL: dict[str, Any] = {"recoding": "local", "k": K, "suppression_limit": 0.5}
LEVELS = {"age": 2, "region": 1, "weight": 1}
PUBLIC: dict[str, Any] = {"k": K, "levels": LEVELS, "suppression_limit": 0.5}


def cells(table: pd.DataFrame, n: int) -> np.ndarray:
    """Published combination of every row of the dataset, -1 where it is not in the release."""
    texts = ["|".join(map(str, row)) for row in table[QUASI].itertuples(index=False)]
    out = np.full(n, -1)
    out[table[ROW]] = pd.factorize(np.array(texts, dtype=object))[0]
    return out


def attacked(*releases: tuple[pd.DataFrame, list[int]]) -> np.ndarray:
    """Candidates of every person: those with the same cells in all releases that hold them."""
    people = max(max(ids) for _, ids in releases) + 1
    columns = []
    for table, ids in releases:
        column = np.full(people, -1)
        column[ids] = cells(table, len(ids))
        columns.append(column)
    return intersections(*columns)


@pytest.mark.parametrize("values", [LOCAL, PUBLIC])
@pytest.mark.parametrize("added", [1, 3, 40])
def test_nobody_who_came_can_be_singled_out(
    anonymise: Anonymise, values: dict[str, Any], added: int
) -> None:
    frame, n = rows(300), 300 - added
    first, one = anonymise(frame[:n], series="s", version="v1", **values)
    second, two = anonymise(frame, series="s", version="v2", **values)
    found = attacked((one, list(range(n))), (two, list(range(300))))
    assert found[found > 0].min() >= K
    assert second.difference["below_k"] == 0
    assert second.difference["smallest"] == found[found > 0].min()
    if added < K:
        assert second.waiting >= added
    assert first.difference == {}


def test_without_a_record_of_the_first_release_the_attack_works(anonymise: Anonymise) -> None:
    """The figure that the series is for: naive local recoding exposes people."""
    frame = rows(300)
    _, one = anonymise(frame[:290], **LOCAL)
    _, two = anonymise(frame, **LOCAL)
    whole = [ROW in table for table in (one, two)]
    assert all(whole)
    found = attacked((one, list(range(290))), (two, list(range(300))))
    assert (found[found > 0] < K).any()


@pytest.mark.parametrize("values", [LOCAL, PUBLIC])
def test_nobody_who_left_can_be_singled_out(anonymise: Anonymise, values: dict[str, Any]) -> None:
    frame = rows(300)
    _, one = anonymise(frame, series="s", version="v1", **values)
    kept = [i for i in range(300) if i not in {7, 100}]
    report, two = anonymise(frame.iloc[kept], series="s", version="v2", **values)
    found = attacked((one, list(range(300))), (two, kept))
    assert found[found > 0].min() >= K
    assert report.retired >= K - 1
    assert report.difference["disappeared"] >= K


def test_many_releases(anonymise: Anonymise) -> None:
    frame = rows(300)
    releases = []
    for i, n in enumerate((200, 202, 230, 231, 300)):
        _, table = anonymise(frame[:n], series="s", version=f"v{i}", **LOCAL)
        releases.append((table, list(range(n))))
    found = attacked(*releases)
    assert found[found > 0].min() >= K


@pytest.mark.parametrize("values", [LOCAL, PUBLIC])
def test_an_earlier_version_comes_out_as_it_did(
    anonymise: Anonymise, values: dict[str, Any]
) -> None:
    frame = rows(300)
    before = anonymise(frame[:250], series="s", version="v1", **values)
    later = anonymise(frame[:299], series="s", version="v2", **values)
    again = anonymise(frame[:250], series="s", version="v1", **values)
    assert again[0] == before[0]
    pd.testing.assert_frame_equal(again[1], before[1])
    once = anonymise(frame[:299], series="s", version="v2", **values)
    assert once[0] == later[0]
    pd.testing.assert_frame_equal(once[1], later[1])


def test_a_changed_row_counts_as_one_that_left_and_one_that_came(anonymise: Anonymise) -> None:
    frame = rows(100)
    anonymise(frame, series="s", version="v1", **LOCAL)
    frame.loc[3, "outcome"] = "yes" if frame.loc[3, "outcome"] == "no" else "no"
    report, table = anonymise(frame, series="s", version="v2", **LOCAL)
    assert 3 not in set(table[ROW])
    assert (report.waiting, report.difference["below_k"]) == (1, 0)


def test_too_much_change_refuses_and_names_the_way_out(anonymise: Anonymise) -> None:
    values = {**LOCAL, "suppression_limit": 0.05}
    frame = rows(100)
    anonymise(frame, series="s", version="v1", **values)
    with pytest.raises(DataError, match="earlier versions") as caught:
        anonymise(frame[::2], series="s", version="v2", **values)
    assert "pseudonym_epoch" in caught.value.remedy


def test_a_damaged_record_is_never_passed_over(anonymise: Anonymise, tmp_path: Any) -> None:
    anonymise(rows(100), series="s", version="v1", **LOCAL)
    (tmp_path / "s").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match="damaged"):
        anonymise(rows(100), series="s", version="v2", **LOCAL)


def test_class_numbers_are_not_published(anonymise: Anonymise) -> None:
    _, table = anonymise(rows(100), **LOCAL)
    wanted = {*QUASI, "illness", "outcome", ROW}
    assert set(table.columns) == wanted


def test_equal_rows_have_keys_of_their_own_and_order_does_not_matter() -> None:
    frame = pd.concat([rows(20)] * 3, ignore_index=True).drop(columns=["patient", "note"])
    keys = row_keys([row_hashes(frame, SECRET)])
    mixed = row_keys([row_hashes(frame.sample(frac=1, random_state=1), SECRET)])
    assert len(set(keys.tolist())) == 60
    assert Counter(keys.tolist()) == Counter(mixed.tolist())
    assert not set(keys.tolist()) & set(row_keys([row_hashes(frame, bytes(32))]).tolist())


def test_a_class_that_lost_rows_is_retired_for_good() -> None:
    series = Series()
    keys = np.arange(1, 11, dtype=np.uint64)
    series.enter("v1", keys)
    series.add(keys, np.repeat([0, 1], 5), {})
    assert series.enter("v2", keys[1:])[0].tolist() == [-2] * 4 + [1] * 5
    assert series.enter("v3", keys)[0].tolist() == [-2] * 5 + [1] * 5
    assert series.enter("v1", keys)[0].tolist() == [0] * 5 + [1] * 5
