"""Each model on classes whose figures are computed by hand."""

import math

import numpy as np
import pytest

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
    settled,
)
from site_tasks.anonymise.models.population import presence

#: Classes over three values: (3, 0, 1), (1, 1, 2), (0, 4, 0); the table holds 4, 5, 3 of 12.
COUNTS = np.array([[3, 0, 1], [1, 1, 2], [0, 4, 0]])
TOTAL = COUNTS.sum(axis=0)


@pytest.mark.parametrize(
    ("model", "figures", "holds"),
    [
        (KAnonymity(4), [4, 4, 4], [True] * 3),
        (KAnonymity(5), [4, 4, 4], [False] * 3),
        (DistinctLDiversity(2), [2, 3, 1], [True, True, False]),
        # exp of the entropies of (3/4, 1/4) and (1/4, 1/4, 1/2)
        (EntropyLDiversity(2), [4 / 27**0.25, 2**1.5, 1], [False, True, False]),
        # most frequent value over all but it: 3/1, 2/2, 4/0
        (RecursiveCLDiversity(3, 2), [3, 1, math.inf], [False, True, False]),
        (RecursiveCLDiversity(3.1, 2), [3, 1, math.inf], [True, True, False]),
        # the two most frequent ruled out: nothing left, 1 left, nothing left
        (RecursiveCLDiversity(2.1, 3), [math.inf, 2, math.inf], [False, True, False]),
        (RecursiveCLDiversity(9, 4), [math.inf] * 3, [False] * 3),
        # half of |3/4-1/3| + |0-5/12| + |1/4-1/4|; |1/4-1/3| + |1/4-5/12| + |1/2-1/4|; 7/12
        (TCloseness(5 / 12), [5 / 12, 1 / 4, 7 / 12], [True, True, False]),
        # cumulated: 5/12, 0; -1/12, -1/4; -1/3, 1/4 - all over two steps
        (TCloseness(1 / 6, "ordered"), [5 / 24, 1 / 6, 7 / 24], [False, True, False]),
        # the first two values are siblings at half height
        (
            TCloseness(0.25, "hierarchical", ((0, 0, 1), (0, 0, 0))),
            # (5/12, -5/12, 0): all between siblings.  (-1/12, -1/6, 1/4): all across the root.
            # (-1/3, 7/12, -1/4): 1/3 between siblings, 1/4 across the root.
            [5 / 24, 1 / 4, 1 / 6 + 1 / 4],
            [True, True, False],
        ),
        (AlphaK(0.75, 4), [0.75, 0.5, 1], [True, True, False]),
        (AlphaK(0.75, 5), [0.75, 0.5, 1], [False] * 3),
        # 3/4 over 1/3 is 1.25 more; 1/2 over 1/4 is 1 more; 1 over 5/12 is 1.4 more
        (BetaLikeness(1.25, enhanced=False), [1.25, 1, 1.4], [True, True, False]),
        # -ln of 1/3 is 1.0986, of 1/4 is 1.386, of 5/12 is 0.875
        (BetaLikeness(1.4), [1.25, 1, 1.4], [False, True, False]),
        (DeltaDisclosure(0.7), [math.inf, math.log(2), math.inf], [False, True, False]),
        (DeltaDisclosure(0.69), [math.inf, math.log(2), math.inf], [False] * 3),
        (
            DeltaDisclosure(0.85, absent=True),
            [math.log(9 / 4), math.log(2), math.log(12 / 5)],
            [True, True, False],
        ),
    ],
    ids=str,
)
def test_figures_by_hand(model, figures, holds):
    np.testing.assert_allclose(model.measure(COUNTS, TOTAL), figures, rtol=1e-12)
    assert model.holds(COUNTS, TOTAL).tolist() == holds


def test_papers_example_of_t_closeness():
    """Li et al. 2007, section 5: salaries 3k to 11k; {3,4,5} is 0.375 away, {6,8,11} 0.167."""
    whole = np.ones(9, int)
    classes = np.zeros((2, 9), int)
    classes[0, [0, 1, 2]] = 1
    classes[1, [3, 5, 8]] = 1
    found = TCloseness(0.2, "ordered").measure(classes, whole)
    np.testing.assert_allclose(found, [0.375, 1 / 6], atol=5e-4)


def test_values_that_do_not_occur_do_not_loosen_t():
    some, whole = np.array([[2, 0], [0, 2]]), np.array([2, 2])
    wide = np.insert(some, 1, 0, axis=1), np.insert(whole, 1, 0)
    for distance in ("equal", "ordered"):
        model = TCloseness(0.4, distance)
        np.testing.assert_array_equal(model.measure(some, whole), model.measure(*wide))


def test_people_of_the_population():
    counts = presence(np.array([9, 2, 5]), np.array([3, 2, 0]))
    total = counts.sum(axis=0)
    assert KMap(3).holds(counts, total).tolist() == [True, False, True]
    assert DeltaPresence(0, 0.5).holds(counts, total).tolist() == [True, False, True]
    assert DeltaPresence(0.1, 1).holds(counts, total).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="everybody"):
        presence(np.array([1]), np.array([2]))


def test_bounds_that_are_reached_hold_whatever_the_rounding():
    thirds = np.array([[1, 2], [2, 4]])
    assert TCloseness(0.3).holds(np.array([[8, 2]]), np.array([5, 5])).all()
    assert AlphaK(2 / 3, 3).holds(thirds, thirds.sum(0)).all()
    # 0.1 · 30 is more than 3 in floating point; the model asks for less than 3
    assert not RecursiveCLDiversity(0.1, 1).holds(np.array([[3] * 10]), np.array([9] * 10)).any()


MODELS = [
    KAnonymity(4),
    DistinctLDiversity(3),
    EntropyLDiversity(1.9),
    RecursiveCLDiversity(1.5, 2),
    RecursiveCLDiversity(2.5, 3),
    TCloseness(0.35),
    TCloseness(0.3, "ordered"),
    TCloseness(0.3, "hierarchical", ((0, 0, 1, 1), (0, 0, 0, 0))),
    AlphaK(0.6, 3),
    BetaLikeness(1.2, enhanced=False),
    BetaLikeness(1.2),
    DeltaDisclosure(0.9),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_statements_about_merging(model):
    rng = np.random.default_rng(7)
    counts = rng.poisson([2.0, 1.0, 1.5, 1.0], (400, 4))
    total = counts.sum(axis=0)
    holds = model.holds(counts, total)
    assert holds.any()
    assert not holds.all()
    a, b = rng.integers(0, 400, (2, 4000))
    together = model.holds(counts[a] + counts[b], total)
    assert model.merging
    assert together[holds[a] & holds[b]].all()
    used = counts[a].any(axis=1) & counts[b].any(axis=1)
    if model.growing:
        assert together[used & (holds[a] | holds[b])].all()
    else:
        assert not together[used & (holds[a] ^ holds[b])].all()


def test_absent_values_break_the_generalisation_property():
    model = DeltaDisclosure(0.8, absent=True)
    counts, total = np.array([[4, 0], [9, 1]]), np.array([130, 70])
    assert not model.merging
    assert model.holds(np.array([[4, 0]]), total).all()
    assert not model.holds(np.array([counts.sum(axis=0)]), total).any()


def test_suppression_is_settled_against_what_is_left():
    # Without the pure class the table is 6 : 2, and the second class is too far from it.
    counts = np.array([[5, 1], [1, 1], [0, 4]])
    model = TCloseness(0.2)
    assert model.holds(counts, counts.sum(0)).tolist() == [False, True, False]
    assert settled([model], counts).tolist() == [False, True, False]
    counts = np.array([[3, 3], [4, 2], [0, 8]])
    kept = settled([TCloseness(0.15)], counts)
    assert TCloseness(0.15).holds(counts[kept], counts[kept].sum(0)).all()
    assert settled([KAnonymity(100)], counts).tolist() == [False] * 3
