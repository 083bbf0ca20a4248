"""Privacy figures: by hand, against the models, and against pycanon.

pycanon needs older libraries than ours, so it lives in an environment of its own: name its Python
in ``FOLKMOOT_PYCANON`` to run the comparison.
"""

import json
import math
import os
import subprocess

import numpy as np
import pandas as pd
import pytest

from site_tasks.anonymise.coded import Coded, Column
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
from site_tasks.anonymise.risk.figures import figures, measure
from site_tasks.anonymise.risk.pairs import packed, pairs
from tests.conftest import real_data

ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
]
QUASI = [
    "age",
    "workclass",
    "education-num",
    "marital-status",
    "occupation",
    "race",
    "sex",
    "native-country",
]


def coded(frame: pd.DataFrame, quasi: list[str], sensitive: str) -> Coded:
    def column(name: str) -> Column:
        found = frame[name].dropna()
        return Column(name, found.dtype.kind in "if", tuple(sorted(found.unique().tolist())))

    return Coded.from_frame(frame, [column(name) for name in quasi], column(sensitive))


def random_table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 120))
    return pd.DataFrame(
        {
            "a": rng.integers(0, 3, n),
            "b": rng.choice(list("xyz"), n, p=[0.8, 0.1, 0.1]),
            "s": rng.choice([10, 20, 30, 40, 50], n, p=[0.5, 0.2, 0.1, 0.1, 0.1]),
        }
    )


def test_by_hand():
    """Classes (3, 0, 1), (1, 1, 2), (0, 4, 0) over the values; see the tests of the models."""
    frame = pd.DataFrame(
        {"q": [1] * 4 + [2] * 4 + [3] * 4, "s": [1, 1, 1, 3, 1, 2, 3, 3, 2, 2, 2, 2]}
    )
    found = measure(coded(frame, ["q"], "s"))
    assert (found.rows, found.classes, found.k, found.unique) == (12, 3, 4, 0)
    learnt = found.sensitive["sensitive"]
    assert learnt.values == 3
    assert learnt.distinct_l == 1
    assert learnt.entropy_l == 1
    assert learnt.recursive_c is None
    assert learnt.t_equal == pytest.approx(7 / 12, abs=1e-12)
    assert learnt.t_ordered == pytest.approx(7 / 24, abs=1e-12)
    assert learnt.alpha == 1
    assert learnt.beta == pytest.approx(1.4, abs=1e-12)
    assert learnt.enhanced_beta is None
    assert learnt.delta == pytest.approx(math.log(12 / 5), abs=1e-12)
    assert learnt.absent
    some = measure(coded(frame[:8], ["q"], "s")).sensitive["sensitive"]
    assert some.distinct_l == 2
    assert some.recursive_c == pytest.approx(3)


@pytest.mark.parametrize("seed", range(40))
def test_figures_are_the_strictest_parameters(seed):
    """Each model holds everywhere at its figure, and nowhere beyond."""
    table = coded(random_table(seed), ["a", "b"], "s")
    key, radix = packed([table.codes[:, 0], table.codes[:, 1]], [c.size for c in table.columns])
    found = figures(key, radix, {"s": (table.sensitive, 6)})
    learnt = found.sensitive["s"]
    classes = np.unique(key, return_inverse=True)[1]
    counts = np.zeros((found.classes, 6), int)
    np.add.at(counts, (classes, table.sensitive), 1)
    total = counts.sum(axis=0)
    more = 1 + 1e-9
    yes = [
        KAnonymity(found.k),
        DistinctLDiversity(learnt.distinct_l),
        EntropyLDiversity(learnt.entropy_l),
        TCloseness(learnt.t_equal),
        TCloseness(learnt.t_ordered, "ordered"),
        AlphaK(learnt.alpha, found.k),
        BetaLikeness(learnt.beta, enhanced=False),
        DeltaDisclosure(learnt.delta * more + 1e-9, absent=True),
    ]
    no = [
        KAnonymity(found.k + 1),
        DistinctLDiversity(learnt.distinct_l + 1),
        EntropyLDiversity(learnt.entropy_l * more),
        TCloseness(learnt.t_equal - 1e-9),
        TCloseness(learnt.t_ordered - 1e-9, "ordered"),
        AlphaK(learnt.alpha / more),
        BetaLikeness(learnt.beta / more - 1e-9, enhanced=False),
        DeltaDisclosure(learnt.delta, absent=True),
    ]
    if learnt.recursive_c is not None:
        yes.append(RecursiveCLDiversity(learnt.recursive_c * more, learnt.distinct_l))
        no.append(RecursiveCLDiversity(learnt.recursive_c, learnt.distinct_l))
    if learnt.enhanced_beta is not None:
        yes.append(BetaLikeness(learnt.enhanced_beta + 1e-9))
    else:
        no.append(BetaLikeness(1e9))
    (yes if not learnt.absent else no).append(DeltaDisclosure(learnt.delta + 1e-6))
    assert [str(m) for m in yes if not m.holds(counts, total).all()] == []
    assert [str(m) for m in no if m.holds(counts, total).all()] == []


def test_the_order_of_rows_and_index_changes_nothing():
    frame = random_table(5)
    shuffled = frame.sample(frac=1, random_state=1)
    first, second = (measure(coded(f, ["a", "b"], "s")) for f in (frame, shuffled))
    assert first.sensitive == second.sensitive
    assert np.array_equal(first.sizes, second.sizes)


def test_rows_with_missing_values_count():
    frame = random_table(6).astype(object)
    frame.loc[0, "a"] = None
    frame.loc[1, "s"] = np.nan
    found = measure(coded(frame, ["a", "b"], "s"))
    assert found.rows == len(frame) == found.sizes.sum()
    assert found.k == 1
    assert found.sensitive["sensitive"].values == frame["s"].nunique() + 1


def test_many_columns_do_not_overflow():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 3, 500) for _ in range(12)]
    codes = [column * 1_000_003 for column in columns]  # 12 · 22 bits
    key, radix = packed(codes, [3_000_007] * 12)
    assert 0 <= key.min() <= key.max() < radix < 2**62
    assert len(np.unique(key)) == len(np.unique(np.column_stack(columns), axis=0))
    table = pairs(key * (2**61 // radix), 2**61, columns[0], 3)
    assert table.counts.sum() == 500
    assert len(table.sizes) == len(np.unique(key))


def test_an_empty_table_has_no_figures():
    found = figures(np.zeros(0, np.int64), 1)
    assert (found.rows, found.k, found.classes) == (0, 0, 0)


PYCANON = """
import json, sys
import pandas as pd
from pycanon import anonymity as a
path, quasi, texts, sensitive = json.loads(sys.argv[1])
frame = pd.read_csv(path, dtype={text: str for text in texts})
out = {"k": int(a.k_anonymity(frame, quasi))}
for name in sensitive:
    one = [name]
    out[name] = {
        "distinct_l": int(a.l_diversity(frame, quasi, one)),
        "entropy_l": int(a.entropy_l_diversity(frame, quasi, one)),
        "t": float(a.t_closeness(frame, quasi, one)),
        "alpha": float(a.alpha_k_anonymity(frame, quasi, one)[0]),
        "beta": float(a.basic_beta_likeness(frame, quasi, one)),
        "delta": float(a.delta_disclosure(frame, quasi, one)),
    }
print(json.dumps(out))
"""


def pycanon(frame, quasi, sensitive, folder):
    python = os.environ.get("FOLKMOOT_PYCANON")
    if not python:
        pytest.skip("FOLKMOOT_PYCANON names no Python that has pycanon")
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    texts = [name for name in sensitive if frame[name].dtype.kind not in "if"]
    arguments = json.dumps([str(path), quasi, texts, sensitive])
    done = subprocess.run(
        [python, "-W", "ignore", "-c", PYCANON, arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def same(frame, quasi, sensitive, folder):
    """Not compared: recursive c and enhanced β, which pycanon defines otherwise (least frequent
    value first; a maximum over values of what each alone allows)."""
    expected = pycanon(frame, quasi, sensitive, folder)
    for name in sensitive:
        distance = "t_ordered" if frame[name].dtype.kind in "if" else "t_equal"
        found = measure(coded(frame, quasi, name))
        learnt, theirs = found.sensitive["sensitive"], expected[name]
        assert found.k == expected["k"]
        assert learnt.distinct_l == theirs["distinct_l"]
        # pycanon cuts l to a whole number, also where rounding left it just below one
        assert math.floor(learnt.entropy_l + 1e-9) - theirs["entropy_l"] in (0, 1)
        assert theirs["entropy_l"] >= math.floor(learnt.entropy_l - 1e-9)
        for ours, what in ((distance, "t"), ("alpha", "alpha"), ("beta", "beta"), ("delta",) * 2):
            assert getattr(learnt, ours) == pytest.approx(theirs[what], rel=1e-9, abs=1e-9), what


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycanon_on_small_tables(seed, tmp_path):
    frame = random_table(100 + seed)
    frame["c"] = [f"v{value % 3}" for value in frame["s"] // 10]
    same(frame, ["a", "b"], ["c", "s"], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_to_pycanon_on_adult(tmp_path):
    if not os.environ.get("FOLKMOOT_PYCANON"):
        pytest.skip("FOLKMOOT_PYCANON names no Python that has pycanon")
    path = real_data("adult") / "adult.data"
    frame = pd.read_csv(path, names=ADULT, skipinitialspace=True, na_values="?").dropna()
    frame = frame.reset_index(drop=True)
    same(frame.head(500), QUASI, ["income", "hours-per-week"], tmp_path)
    same(frame, QUASI, ["income"], tmp_path)
