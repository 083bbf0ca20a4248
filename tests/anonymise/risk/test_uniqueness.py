"""Uniqueness in the population, estimated from samples of tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from site_tasks.anonymise.risk.generative import simulate
from site_tasks.anonymise.risk.superpopulation import Frequencies, pitman, snb, zayatz
from site_tasks.anonymise.risk.uniqueness import estimate
from tests.conftest import real_data


def people(n: int = 20_000) -> np.ndarray:
    """Ages by trade and region: columns that go together."""
    rng = np.random.default_rng(0)
    trade = rng.choice(40, n, p=(w := 1 / np.arange(1, 41)) / w.sum())
    age = np.clip(rng.normal(30 + trade, 8), 0, 79).astype(int)
    region = np.where(rng.random(n) < 0.7, trade % 25, rng.integers(0, 25, n))
    return np.column_stack([age, trade, region])


def classes(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, axis=0, return_counts=True)[1]


@pytest.mark.parametrize(("share", "within"), [(0.02, 0.05), (0.2, 0.03), (0.6, 0.02)])
def test_samples_of_a_known_population(share, within):
    codes = people()
    truth = np.count_nonzero(classes(codes) == 1) / len(codes)
    rng = np.random.default_rng(1)
    sample = codes[rng.choice(len(codes), int(share * len(codes)), replace=False)]
    found = estimate(classes(sample), len(codes), sample, (True, False, False))
    assert found.share == pytest.approx(truth, abs=within)
    again = estimate(classes(sample), len(codes), sample, (True, False, False))
    assert again == found


def test_pitman_on_its_own_law():
    """Blocks drawn by the sequential construction of the formula itself."""
    rng = np.random.default_rng(3)
    theta, a, n = 200.0, 0.5, 30_000
    sizes: list[int] = []
    seats: list[int] = []
    for i in range(n):
        if rng.random() * (theta + i) < theta + a * len(sizes):
            seats.append(len(sizes))
            sizes.append(1)
        else:  # a person's block with weight size - a: reject by a / size
            while True:
                block = seats[int(rng.integers(0, i))]
                if rng.random() > a / sizes[block]:
                    break
            seats.append(block)
            sizes[block] += 1
    truth = sizes.count(1) / n
    taken = rng.choice(n, 3000, replace=False)
    sample = np.bincount(np.array(seats)[taken])
    found = pitman(Frequencies.of(sample[sample > 0]), n)
    assert found is not None
    assert found.error < 0.01
    assert found.share == pytest.approx(truth, abs=3 * found.error)


def test_a_census_is_not_estimated():
    sizes = np.array([1, 1, 2, 4])
    found = estimate(sizes, 8)
    assert (found.method, found.share) == ("census", 0.25)


def test_estimators_agree_where_half_is_seen():
    codes = people(6000)
    truth = np.count_nonzero(classes(codes) == 1) / len(codes)
    sample = Frequencies.of(classes(codes[::2]))
    for estimator in (pitman, snb, zayatz):
        found = estimator(sample, len(codes))
        assert found is not None
        assert found.share == pytest.approx(truth, abs=0.05), estimator.__name__


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [5], [1, 1, 1, 2]])
def test_degenerate_samples_have_an_answer(sizes):
    codes = np.repeat(np.arange(len(sizes)), sizes)[:, None]
    found = estimate(np.array(sizes), 50, codes, (False,))
    assert 0 <= found.share <= 1


def test_the_model_draws_columns_that_go_together():
    codes = people(3000)
    drawn = simulate(codes, (True, False, False), 3000)
    assert drawn.shape == codes.shape
    for j in range(3):
        assert set(np.unique(drawn[:, j])) <= set(np.unique(codes[:, j]))
    ours, theirs = (np.corrcoef(table[:, 0], table[:, 1])[0, 1] for table in (codes, drawn))
    assert theirs == pytest.approx(ours, abs=0.1)
    assert not np.array_equal(simulate(codes, (True, False, False), 3000, seed=1), drawn)


def test_adult_from_a_tenth():
    names = [
        *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status"),
        *(
            "occupation",
            "relationship",
            "race",
            "sex",
            "gain",
            "loss",
            "hours",
            "country",
            "income",
        ),
    ]
    quasi = ["age", "workclass", "education-num", "marital-status", "occupation", "race", "sex"]
    parts = [
        pd.read_csv(
            real_data("adult") / file,
            names=names,
            skipinitialspace=True,
            na_values="?",
            skiprows=int(file == "adult.test"),
        )
        for file in ("adult.data", "adult.test")
    ]
    frame = pd.concat(parts).dropna()[[*quasi, "country"]]
    codes = np.column_stack([pd.factorize(frame[name], sort=True)[0] for name in frame])
    assert len(codes) == 45_222
    assert np.count_nonzero(classes(codes) == 1) / len(codes) == pytest.approx(0.4117, abs=5e-5)
    sample = codes[np.random.default_rng(0).choice(len(codes), 4522, replace=False)]
    found = estimate(classes(sample), len(codes), sample, (True, False, True) + (False,) * 5)
    assert found.method == "pitman and model"
    assert found.share == pytest.approx(0.4117, abs=0.035)
