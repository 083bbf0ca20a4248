from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.contract import Column, Contract, load_contract
from folkmoot.conversion import converted
from folkmoot.errors import ConfigError
from folkmoot.generalisation import categories_at, generalise_numbers
from folkmoot.hierarchies import (
    ValueHierarchy,
    breaks,
    dates,
    hierarchy_of,
    interval_index,
    intervals,
    mapped,
    ordered_groups,
    prefixes,
    read_arx,
)
from folkmoot.wire import canonical_json, digest


def csv(folder: Path, text: str) -> Path:
    path = folder / "hierarchy.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_arx(tmp_path: Path) -> None:
    tree = read_arx(csv(tmp_path, "a;ab;*\nb;ab;*\n\nc;c;*\r\n"))
    assert tree.domain == ("a", "b", "c")
    assert [g.tolist() for g in tree.groups] == [[0, 0, 1], [0, 0, 0]]
    assert tree.labels == (("ab", "c"), ("*",))
    assert tree.at(0).tolist() == [0, 1, 2]
    assert tree.names(0) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;x;*\nb;x\n", "uneven depth: row 2 has 2 cells, row 1 has 3"),
        ("a;x;*\nb;;*\n", "gap: row 2 has no group at level 1"),
        (";x;*\n", "gap: row 1 has no value"),
        ("a;x;*\na;y;*\n", "value of row 1 again in row 2"),
        ("a;x;a\nb;x;a\n", "cycle: row 1 comes back"),
        ("a;x;p\nb;x;q\n", "divides a group of level 1 between groups of level 2"),
        ("", "has no rows"),
    ],
)
def test_faulty_files(tmp_path: Path, text: str, said: str) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_arx(path)
    assert caught.value.code == "config.hierarchy"
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_absent_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        read_arx(tmp_path / "none.csv")
    assert caught.value.code == "config.missing-file"
    (tmp_path / "latin.csv").write_bytes("Zürich;*\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_arx(tmp_path / "latin.csv")
    assert caught.value.code == "config.syntax"


def test_a_level_that_does_not_exist(tmp_path: Path) -> None:
    tree = read_arx(csv(tmp_path, "a;*\nb;*\n"))
    with pytest.raises(ConfigError, match="has no level 2: it ends at level 1"):
        tree.at(2)


def test_fewer_values(tmp_path: Path) -> None:
    tree = read_arx(csv(tmp_path, "a;x;*\nb;y;*\nc;x;*\n")).restricted(["c", "b"])
    assert tree.domain == ("c", "b")
    assert [g.tolist() for g in tree.groups] == [[0, 1], [0, 0]]
    assert tree.labels[0] == ("x", "y")
    with pytest.raises(ConfigError, match="leaves out 1 of the column's 2 public values"):
        tree.restricted(["c", "z"])


@pytest.mark.parametrize("width", [0.1, 0.3, 0.7, 1.1, 5.0, 10.0])
@pytest.mark.parametrize("lower", [0.0, 0.1, -3.7, 18.0])
def test_half_open_intervals_never_take_their_end(width: float, lower: float) -> None:
    """[10, 20) takes 10 and never 20, on edges as people write them."""
    column = Column.model_validate(
        {
            "name": "x",
            "role": "quasi_identifier",
            "bounds": [lower, lower + 50 * width],
            "hierarchy": {"widths": [width]},
        }
    )
    edges = [round(lower + i * width, 6) for i in range(50)]
    found = interval_index(np.array(edges), lower, lower + 50 * width, width)
    assert found.tolist() == list(range(50))
    middles = generalise_numbers(np.array(edges), column, 1)
    assert (middles > edges).all()
    assert (middles[:-1] < np.array(edges[1:])).all()


def test_the_last_interval_holds_the_upper_bound() -> None:
    tree = intervals("age", 18, 90, [10, 40], whole=True)
    assert tree.domain[0] == 18
    assert tree.domain[-1] == 90
    assert tree.at(1)[[0, 9, 10, 72]].tolist() == [0, 0, 1, 7]
    assert tree.names(1)[0] == "[18, 28)"
    assert tree.names(1)[-1] == "[88, 90]"
    assert interval_index(np.array([90.0, 1000.0, -5.0]), 18, 90, 10).tolist() == [7, 7, 0]


@settings(max_examples=200, deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 50), st.integers(1, 40), st.lists(st.floats(0, 1)))
def test_every_number_lies_in_its_interval(
    lower: float, width: float, count: int, shares: list[float]
) -> None:
    upper = lower + width * count
    values = np.array([min(lower + s * (upper - lower), upper) for s in shares])
    index = interval_index(values, lower, upper, width)
    slack = 1e-9 * max(abs(lower), abs(upper), 1)
    assert (values >= lower + index * width - slack).all()
    assert (values <= lower + (index + 1) * width + slack).all()
    assert ((index >= 0) & (index <= count)).all()


def test_numbers_that_are_not_whole() -> None:
    tree = intervals("x", 0, 1, [0.1, 0.5], whole=False)
    assert len(tree.domain) == 10
    assert tree.width == 0.1
    assert tree.lowest == 1
    assert tree.at(2).tolist() == [0] * 5 + [1] * 5


def test_widths_that_do_not_nest() -> None:
    with pytest.raises(ConfigError, match="no multiple of the one before"):
        intervals("x", 0, 100, [10, 25], whole=True)


def test_breaks_by_hand() -> None:
    tree = breaks("age", 0, 100, [[18, 40, 65], [18]])
    assert tree.at(1)[[0, 17, 18, 39, 40, 64, 65, 100]].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert tree.names(2) == ("[0, 18)", "[18, 100]")
    with pytest.raises(ConfigError, match="divides a group of level 1"):
        breaks("age", 0, 100, [[18], [40]])
    with pytest.raises(ConfigError, match="out of order or beyond"):
        breaks("age", 0, 100, [[40, 18]])


def test_prefixes() -> None:
    tree = prefixes("postcode", ["8001", "8002", "8051", "3000"], [3, 1, 0])
    assert tree.names(1) == ("800*", "805*", "300*")
    assert tree.at(2).tolist() == [0, 0, 0, 1]
    assert tree.names(3) == ("*",)
    with pytest.raises(ConfigError, match="do not get shorter"):
        prefixes("postcode", ["8001"], [1, 3])


def test_dates() -> None:
    tree = dates("admitted", date(2023, 12, 30), date(2024, 4, 1), ["month", "quarter", "year"])
    assert tree.domain[0] == "2023-12-30"
    assert tree.names(1) == ("2023-12", "2024-01", "2024-02", "2024-03", "2024-04")
    assert tree.names(2) == ("2023-Q4", "2024-Q1", "2024-Q2")
    assert "2024-02-29" in tree.domain
    with pytest.raises(ConfigError, match="divides a group"):  # weeks do not nest in months
        dates("admitted", date(2024, 1, 1), date(2024, 3, 1), ["week", "month"])


def test_ordered_categories() -> None:
    tree = ordered_groups("stage", ["I", "II", "III", "IV"], [[["I", "II"], ["III", "IV"]]])
    assert tree.ordered
    assert tree.names(1) == ("I … II", "III … IV")
    with pytest.raises(ConfigError, match="in their order at level 1"):
        ordered_groups("stage", ["I", "II", "III"], [[["I", "III"], ["II"]]])
    with pytest.raises(ConfigError, match="no run of neighbours"):
        mapped("stage", ["I", "II", "III"], [{"I": "x", "II": "y", "III": "x"}], ordered=True)


def test_a_level_that_leaves_a_group_out() -> None:
    with pytest.raises(ConfigError, match="level 2 has no group for 1 groups"):
        mapped("region", ["n", "s"], [{"n": "N", "s": "S"}, {"N": "*"}])


def test_levels_must_nest_whoever_builds_them() -> None:
    with pytest.raises(ConfigError, match="divides a group of level 1"):
        ValueHierarchy(
            "x",
            ("a", "b"),
            (np.array([0, 0], np.int32), np.array([0, 1], np.int32)),
            (("p",), ("q", "r")),
        )


def contract(hierarchy: dict[str, Any], **column: Any) -> dict[str, Any]:
    place = {"name": "place", "role": "quasi_identifier", "hierarchy": hierarchy, **column}
    return {
        "name": "c",
        "task": "regression",
        "columns": [place, {"name": "y", "role": "label", "bounds": [0, 1]}],
    }


def test_a_contract_with_a_file(tmp_path: Path) -> None:
    csv(tmp_path, "a;x;*\nb;x;*\nc;y;*\n")
    values = contract({"file": "hierarchy.csv"}, type="category", categories=["c", "a"])
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    found = load_contract(path)
    column = found.columns[0]
    assert column.hierarchy is not None
    assert column.hierarchy.depth == 2
    assert categories_at(column, 1) == ("y", "x")
    (tmp_path / "hierarchy.csv").unlink()  # its content went into the contract
    assert hierarchy_of(type(found).model_validate(found.model_dump(mode="json")).columns[0])


def test_a_contract_with_a_faulty_file_names_the_column(tmp_path: Path) -> None:
    csv(tmp_path, "a;x;*\nb;*\n")
    path = tmp_path / "contract.yaml"
    values = contract({"file": "hierarchy.csv"}, type="category", categories=["a", "b"])
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="column place has uneven depth: row 2"):
        load_contract(path)


def test_ages_listed_one_by_one() -> None:
    table = [[str(a), f"{a // 10 * 10}s", "*"] for a in reversed(range(0, 120))]
    values = contract({"table": table}, type="integer", bounds=[17, 90])
    column = Column.model_validate(values["columns"][0])
    tree = hierarchy_of(column)
    assert tree.ordered
    assert tree.domain == tuple(range(17, 91))
    assert tree.names(1) == ("10s", "20s", "30s", "40s", "50s", "60s", "70s", "80s", "90s")
    found = generalise_numbers(np.array([17.0, 19.0, 20.0, 90.0, np.nan]), column, 1)
    assert found[:4].tolist() == [18.0, 18.0, 24.5, 90.0]
    assert np.isnan(found[4])


@pytest.mark.parametrize(
    ("hierarchy", "column", "said"),
    [
        ({"widths": [1.0]}, {"type": "category", "categories": ["a"]}, "given by widths"),
        ({"levels": [{"1": "*"}]}, {"type": "integer", "bounds": [0, 9]}, "given by levels"),
        ({"breaks": [[1.0]]}, {"type": "number", "bounds": [0, 9]}, "not whole"),
    ],
)
def test_a_hierarchy_that_does_not_fit_its_column(
    hierarchy: dict[str, Any], column: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        hierarchy_of(Column.model_validate(contract(hierarchy, **column)["columns"][0]))


def test_a_calendar_from_the_contract() -> None:
    """Days since a reference, by month and year: before and after the conversion alike."""
    column = Column(
        name="seen",
        role="quasi_identifier",
        type="date",
        convert={"to": "days", "reference": date(2024, 1, 31), "person": "id"},
        bounds=[-31, 400],
        hierarchy={"calendar": ["month", "year", "*"]},
    )
    tree, after = hierarchy_of(column), hierarchy_of(converted(column))
    assert [g.tolist() for g in tree.groups] == [g.tolist() for g in after.groups]
    assert tree.domain == tuple(range(-31, 401))
    months = tree.at(1)
    assert len(set(months.tolist())) == 16  # December 2023 to March 2025
    assert (months[30 + 1], months[31 + 1]) == (1, 2)  # 31 January, 1 February
    assert len(set(tree.at(2).tolist())) == 3
    assert set(tree.at(3).tolist()) == {0}
    mean = generalise_numbers(np.array([0.0, np.nan]), converted(column), 1)
    assert mean[0] == pytest.approx(np.mean(range(-30, 1)))
    assert np.isnan(mean[1])
    wrong = column.model_copy(update={"convert": None, "type": "integer"})
    with pytest.raises(ConfigError, match="only dates that are converted to days"):
        hierarchy_of(wrong)


def test_runs_of_ordered_categories_from_the_contract() -> None:
    stages = ["0", "I", "II", "III", "IV"]
    runs = [[["0"], ["I", "II"], ["III", "IV"]], [stages]]
    values = {
        "name": "stage",
        "type": "category",
        "categories": stages,
        "hierarchy": {"runs": runs},
    }
    column = Column.model_validate({**values, "role": "quasi_identifier", "ordered": True})
    tree = hierarchy_of(column)
    assert tree.ordered
    assert [g.tolist() for g in tree.groups] == [[0, 1, 1, 2, 2], [0, 0, 0, 0, 0]]
    assert categories_at(column, 1) == ("0", "I … II", "III … IV")
    with pytest.raises(ConfigError, match="without an order"):
        hierarchy_of(column.model_copy(update={"ordered": False}))
    short = column.hierarchy.model_copy(update={"runs": [[["I", "0"], ["II", "III", "IV"]]]})
    with pytest.raises(ConfigError, match="all values in their order"):
        hierarchy_of(column.model_copy(update={"hierarchy": short}))


def test_keys_that_came_later_leave_digests_alone() -> None:
    values: dict[str, Any] = {
        "name": "c",
        "task": "binary",
        "columns": [
            {"name": "a", "bounds": [0, 10], "type": "integer", "hierarchy": {"widths": [5]}},
            {"name": "y", "role": "label", "type": "category", "categories": ["0", "1"]},
        ],
    }
    contract = Contract.model_validate(values)
    stated = contract.stated()
    assert stated["columns"][0]["hierarchy"] == {"widths": [5]}  # no calendar, no runs
    assert contract.digest() == digest(canonical_json(stated))
