"""The obvious checker: what other tools let through is refused here."""

import numpy as np
import pandas as pd
import pytest

from folkmoot.errors import PrivacyError
from site_tasks.anonymise.coded import Coded, Column
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
from site_tasks.anonymise.verify import Checker, verify_frame
from site_tasks.anonymise.verify_recoding import verify_recoding

#: Two classes of three rows; the second holds one disease only.
FRAME = pd.DataFrame(
    {
        "age": ["20-29"] * 3 + ["30-39"] * 3,
        "zip": ["1*"] * 6,
        "disease": ["flu", "cold", "flu", "flu", "flu", "flu"],
    }
)


def refusal(frame, models, **more):
    with pytest.raises(PrivacyError) as caught:
        verify_frame(frame, ["age", "zip"], models, sensitive="disease", **more)
    assert caught.value.code == "privacy.unproven"
    assert "flu" not in str(caught.value)
    assert "20-29" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "broken"),
    [
        (KAnonymity(3), 0),
        (KAnonymity(4), 2),
        (DistinctLDiversity(2), 1),
        (EntropyLDiversity(1.8), 1),
        (EntropyLDiversity(1.9), 2),
        (RecursiveCLDiversity(2.1, 2), 1),
        (RecursiveCLDiversity(2, 2), 2),
        (TCloseness(0.17), 0),
        (TCloseness(0.16), 2),
        (TCloseness(0.17, "ordered"), 0),
        (TCloseness(0.08, "hierarchical", ((0, 0, 1), (0, 0, 0))), 2),
        (TCloseness(0.09, "hierarchical", ((0, 0, 1), (0, 0, 0))), 0),
        (AlphaK(0.7, 3), 1),
        (BetaLikeness(1, enhanced=False), 0),
        (BetaLikeness(0.9, enhanced=False), 1),
        (BetaLikeness(9), 1),
        (DeltaDisclosure(0.7, absent=True), 0),
        (DeltaDisclosure(0.6, absent=True), 1),
        (DeltaDisclosure(0.7), 1),
    ],
    ids=str,
)
def test_every_model(model, broken):
    if not broken:
        verify_frame(
            FRAME, ["age", "zip"], [model], sensitive="disease", domain=("flu", "cold", "none")
        )
        return
    found = refusal(FRAME, [model], domain=("flu", "cold", "none"))
    assert f"{model} does not hold in {broken} of 2 classes" in found


def test_rows_with_missing_values_are_rows():
    """Not left out of the classes, and not published as verified because nothing equals NaN."""
    for missing in (None, np.nan, pd.NA):
        frame = FRAME.astype(object)
        frame.loc[0, "age"] = missing
        assert "does not hold in 2 of 3" in refusal(frame, [KAnonymity(3)])
        frame.loc[:2, "age"] = missing
        verify_frame(frame, ["age", "zip"], [KAnonymity(3)])


def test_a_missing_sensitive_value_is_a_value():
    frame = FRAME.astype(object)
    frame.loc[3, "disease"] = np.nan
    verify_frame(frame, ["age", "zip"], [DistinctLDiversity(2)], sensitive="disease")


def test_the_order_of_the_index_changes_nothing():
    shuffled = FRAME.sample(frac=1, random_state=3)
    shuffled = shuffled.reset_index(drop=True).sort_values("disease").reset_index(drop=True)
    verify_frame(shuffled, ["age", "zip"], [TCloseness(0.17)], sensitive="disease")
    refusal(shuffled, [DistinctLDiversity(2)])


def test_an_index_that_tells_the_original_row_is_refused():
    suppressed = FRAME.drop(index=[1])
    assert "index" in refusal(suppressed, [])


def test_columns_that_nobody_agreed_to_are_refused():
    frame = FRAME.assign(row=range(6))
    assert "columns row" in refusal(frame, [], columns=["age", "zip", "disease"])


def test_t_asked_for_without_a_sensitive_column_is_not_proven():
    with pytest.raises(PrivacyError, match="without a sensitive column"):
        verify_frame(FRAME, ["age"], [TCloseness(0.2)])


def test_fewer_rows_than_k_are_not_published():
    assert "1 of 1 classes" in refusal(FRAME.head(2), [KAnonymity(3)])
    with pytest.raises(PrivacyError):
        verify_frame(FRAME.head(2), [], [KAnonymity(3)])


def test_population():
    people = pd.DataFrame({"age": ["20-29"] * 9 + ["30-39"] * 3, "zip": ["1*"] * 12})
    verify_frame(FRAME, ["age", "zip"], [KMap(3), DeltaPresence(0.3, 1)], population=people)
    assert "k-map" in refusal(FRAME, [KMap(4)], population=people)
    assert "δ-presence" in refusal(FRAME, [DeltaPresence(0, 0.5)], population=people)
    assert "k-map" in refusal(FRAME, [KMap(3)])
    assert "k-map" in refusal(FRAME, [KMap(2)], population=people.head(11))


def test_unknown_models_are_not_proven():
    class Other(KAnonymity):
        pass

    class Unknown(KAnonymity.__mro__[1]):
        def measure(self, counts, total):
            return counts.sum(axis=1)

        def holds(self, counts, total):
            return counts.sum(axis=1) >= 0

        def __str__(self):
            return "unknown"

    checker = Checker([Other(2), Unknown()])
    checker.add([["a", "a"]], rows=2)
    assert checker.problems() == ["unknown does not hold in 1 of 1 classes"]


def test_pieces_are_one_table():
    checker = Checker([KAnonymity(3)])
    for _ in range(3):
        checker.add([["a"]], rows=1)
    checker.demand()
    with pytest.raises(ValueError, match="as many rows"):
        checker.add([["a", "b"]], rows=3)


AGE = Column("age", True, tuple(range(10)))


def coarse(low, high, missing=False):
    cells = Ranges(np.array([low], np.int32), np.array([high], np.int32), np.array([missing]))
    return Recoding((AGE,), np.zeros(3, np.int32), (cells,))


def test_cells_must_allow_their_own_values():
    coded = Coded((AGE,), np.array([[1], [2], [4]], np.int32))
    verify_recoding(coded, coarse(1, 4), [KAnonymity(3)])
    with pytest.raises(PrivacyError, match="1 cells of age"):
        verify_recoding(coded, coarse(1, 3), [KAnonymity(3)])
    missing = Coded((AGE,), np.array([[1], [2], [AGE.missing]], np.int32))
    with pytest.raises(PrivacyError, match="1 cells of age"):
        verify_recoding(missing, coarse(1, 4), [KAnonymity(3)])
    verify_recoding(missing, coarse(1, 4, missing=True), [KAnonymity(3)])


def test_rows_must_not_vanish():
    coded = Coded((AGE,), np.array([[1], [2], [3], [3]], np.int32))
    with pytest.raises(PrivacyError, match="1 rows are neither kept nor suppressed"):
        verify_recoding(coded, coarse(1, 4), [KAnonymity(3)])


def test_classes_are_what_can_be_told_apart_not_what_the_engine_says():
    cells = Ranges(*(np.array(x, np.int32) for x in ([1, 1], [4, 4])), np.array([False, False]))
    made = Recoding((AGE,), np.array([0, 0, 1], np.int32), (cells,))
    coded = Coded((AGE,), np.array([[1], [2], [4]], np.int32))
    verify_recoding(coded, made, [KAnonymity(3)])
