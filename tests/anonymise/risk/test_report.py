"""The risk report: figures by hand, what stays, what may leave, and a page for people."""

import json
import re
import stat

import numpy as np
import pytest

from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.local import recode
from site_tasks.anonymise.models import DistinctLDiversity, KAnonymity
from site_tasks.anonymise.recoding import Ranges, Recoding, Sets
from site_tasks.anonymise.risk.attackers import risks
from site_tasks.anonymise.risk.combinations import identifying
from site_tasks.anonymise.risk.loss import loss
from site_tasks.anonymise.risk.page import page
from site_tasks.anonymise.risk.report import assess, summary, write

AGE = Column("age", True, tuple(range(40, 50)))
TOWN = Column("town", False, ("Zwickau", "Yverdon", "Xanten"))
VALUES = ("Zwickau", "Yverdon", "Xanten", "gastritis", "bronchitis")


def made(n: int = 400) -> Coded:
    rng = np.random.default_rng(2)
    age = rng.integers(0, 10, n)
    codes = np.column_stack([age, rng.choice(3, n, p=[0.7, 0.2, 0.1])]).astype(np.int32)
    ill = (rng.random(n) < 0.2 + age / 20).astype(np.int32)
    return Coded((AGE, TOWN), np.asfortranarray(codes), ill, ("gastritis", "bronchitis"))


@pytest.fixture(scope="module")
def report():
    coded = made()
    models = [KAnonymity(5), DistinctLDiversity(2)]
    found = recode(coded, k=5, models=models)
    return assess(coded, found, models, site="north", name="illness", label=coded.sensitive)


def test_attackers_by_hand():
    found = risks(np.array([1, 4, 5]), np.array([2, 10, 5]))
    assert found.prosecutor.highest == 1
    assert found.prosecutor.average == pytest.approx(3 / 10)
    assert found.prosecutor.at_risk == pytest.approx(5 / 10)  # one in five is not above 20 %
    assert found.journalist.highest == 0.5
    assert found.journalist.average == pytest.approx((1 / 2 + 4 / 10 + 5 / 5) / 10)
    assert found.journalist.at_risk == pytest.approx(1 / 10)
    assert found.marketer == found.journalist.average
    alone = risks(np.array([1, 4, 5]))
    assert alone.journalist == alone.prosecutor
    assert risks(np.zeros(0, int)).prosecutor.highest == 0


def test_loss_by_hand():
    """Two classes of two rows and a suppressed row; ages of 10 values, towns of 3."""
    codes = np.array([[0, 0], [1, 0], [5, 1], [5, 2], [9, 2]], np.int32)
    ages = Ranges(np.array([0, 5]), np.array([1, 5]), np.zeros(2, bool))
    towns = Sets.of(np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool))
    recoding = Recoding((AGE, TOWN), np.array([0, 0, 1, 1, -1], np.int32), (ages, towns))
    found = loss(Coded((AGE, TOWN), codes), recoding, k=2)
    assert found.ncp["age"] == pytest.approx((2 * 1 / 9 + 0 + 1) / 5)
    assert found.ncp["town"] == pytest.approx((0 + 2 * 1 / 2 + 1) / 5)
    assert found.gcp == pytest.approx(recoding.loss())
    assert found.discernibility == 4 + 4 + 5
    assert found.average_class == 1
    # bits told: ages 1, 1, 2, 2, 1 of five; towns 2, 2, 1, 2, 2 of five
    told = np.log2([5, 5, 2.5, 2.5, 5, 2.5, 2.5, 5, 2.5, 2.5])
    lost = [1, 1, np.log2(5), np.log2(3), np.log2(3 / 2), np.log2(5 / 2)]
    assert found.entropy == pytest.approx(sum(lost) / told.sum())


def test_everything_suppressed_loses_everything():
    coded = made(10)
    nothing = Recoding(
        (AGE, TOWN),
        np.full(10, -1, np.int32),
        (Ranges(*np.zeros((2, 0), int), np.zeros(0, bool)), Sets.of(np.zeros((0, 4), bool))),
    )
    found = loss(coded, nothing, k=5)
    assert (found.gcp, found.entropy, found.discernibility) == (1, pytest.approx(1), 100)
    assert assess(coded, nothing)["after"]["rows"] == 0


def test_combinations_by_hand():
    codes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    found = identifying(codes, ["a", "b", "c"], [2, 2, 1])
    assert found[0].columns == ("a", "b")
    assert (found[0].unique, found[0].distinct) == (0.5, 3)
    assert {one.columns: one.unique for one in found}["b",] == 0.25
    assert found[-1].columns == ("c",)
    assert len(found) == 7


def test_figures_before_and_after(report):
    assert report["before"]["k"] < 5 <= report["after"]["k"]
    assert report["after"]["unique"] == 0
    assert report["after"]["risk"]["prosecutor"]["highest"] <= 0.2
    assert report["after"]["sensitive"]["illness"]["distinct_l"] >= 2
    for part in (report["before"], report["after"]):
        assert sum(one["rows"] for one in part["histogram"]) == part["rows"]
        assert sum(one["classes"] for one in part["histogram"]) == part["classes"]
    assert 0 < report["loss"]["gcp"] < 1
    assert report["combinations"][0]["columns"] == ("age", "town")
    assert len(report["population"]) == 3
    for model in ("logistic", "trees"):
        assert 0.55 < report["utility"][model]["after"] < 1
        assert report["utility"][model]["before"] > 0.55


def test_neither_file_holds_a_value(report, tmp_path):
    paths = write(report, tmp_path / "private" / "risk")
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert not [value for value in VALUES if value in text]
    assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["risk.html", "risk.json"]
    assert json.loads(paths[0].read_text())["site"] == "north"
    write(report, tmp_path / "private" / "risk")


def test_the_page_loads_nothing(report):
    text = page(report)
    assert not re.search(r"(?:src|href)=|url\(|@import|<script|https?:", text)
    assert text.count("<svg") == 4
    for words in ("prosecutor", "journalist", "marketer", "l-diversity", "discernibility", "snb"):
        assert words in text


def test_names_cannot_break_the_page():
    column = Column("<b>&", False, ("x", "y"))
    coded = Coded((column,), np.array([[0], [1], [0]], np.int32))
    text = page(assess(coded, None, site="<i>"))
    assert "<b>&" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_nothing_leaves_by_default(report):
    assert summary(report, []) == {}
    some = summary(report, ["k", "rows", "loss"])
    assert some == {"k": report["after"]["k"], "rows": 400, "loss": report["loss"]["gcp"]}
    with pytest.raises(KeyError):
        summary(report, ["histogram"])


def test_journalist_with_a_population_table():
    coded = made(40)
    crowd = np.full(40, 1000)
    found = assess(coded, None, people=(crowd, crowd))
    assert found["before"]["risk"]["journalist"]["highest"] == pytest.approx(0.001)
    assert found["before"]["risk"]["prosecutor"]["highest"] == 1
