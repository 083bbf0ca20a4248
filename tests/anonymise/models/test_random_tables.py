"""Whatever the table, no engine's output breaks a model: random tables against the obvious checker.

``FOLKMOOT_EXAMPLES`` sets how many tables; the benchmark ``anonymise_risk`` asks for 10,000.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from folkmoot.errors import FolkmootError
from site_tasks.anonymise import full_domain, local
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
from site_tasks.anonymise.recoding import Recoding
from site_tasks.anonymise.verify import Checker
from site_tasks.anonymise.verify_recoding import verify_recoding

EXAMPLES = int(os.environ.get("FOLKMOOT_EXAMPLES", "150"))
#: Tables are drawn from a seed: shapes are what matters, and hypothesis' own arrays are slow.
SHAPES = ["tiny", "skewed", "equal", "distinct", "missing", "one column", "plain"]
SECRETS = 4

models = st.lists(
    st.one_of(
        st.builds(DistinctLDiversity, st.integers(1, 3)),
        st.builds(EntropyLDiversity, st.sampled_from([1, 1.3, 2])),
        st.builds(RecursiveCLDiversity, st.sampled_from([0.5, 1, 2, 4]), st.integers(1, 3)),
        st.builds(
            TCloseness, st.sampled_from([0.1, 0.25, 0.5]), st.sampled_from(["equal", "ordered"])
        ),
        st.builds(
            TCloseness,
            st.sampled_from([0.25, 0.5]),
            st.just("hierarchical"),
            st.just(((0, 0, 1, 1, 2), (0, 0, 0, 0, 0))),
        ),
        st.builds(AlphaK, st.sampled_from([0.5, 0.75, 1]), st.integers(1, 4)),
        st.builds(BetaLikeness, st.sampled_from([0.5, 1, 3]), st.booleans()),
        st.builds(DeltaDisclosure, st.sampled_from([0.5, 1, 2]), st.booleans()),
    ),
    max_size=2,
    unique_by=type,
)


def table(shape: str, seed: int) -> Coded:
    """A seeded table, its rows in the order of a shuffled frame."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5 if shape == "tiny" else 40))
    width = 1 if shape == "one column" else int(rng.integers(1, 5))
    columns, codes = [], np.empty((n, width), np.int32, order="F")
    for j in range(width):
        size = int(rng.integers(n, n + 3)) if shape == "distinct" else int(rng.integers(1, 7))
        share = 0.3 ** np.arange(size) if shape == "skewed" else np.ones(size)
        codes[:, j] = rng.choice(size, n, p=share / share.sum())
        if shape == "equal":
            codes[:, j] = codes[0, j]
        if shape == "distinct":
            codes[:, j] = rng.permutation(size)[:n]
        if shape == "missing" or rng.random() < 0.1:
            codes[rng.random(n) < 0.3, j] = size
        ordered = bool(rng.integers(2))
        halves = (np.arange(size) // 2).astype(np.int32)
        levels = (halves, np.zeros(size, np.int32))
        columns.append(Column(f"q{j}", ordered, tuple(range(size)), levels))
    skew = rng.random(SECRETS + 1) ** 3 + 1e-3
    sensitive = rng.choice(SECRETS + 1, n, p=skew / skew.sum()).astype(np.int32)
    order = rng.permutation(n)
    return Coded(
        tuple(columns),
        np.asfortranarray(codes[order]),
        sensitive[order],
        tuple(range(SECRETS)),
    )


def possible(coded: Coded, asked: list) -> bool:
    """Whether all rows as one class satisfy the models, so that no engine need refuse."""
    checker = Checker(asked, range(SECRETS))
    checker.add([], coded.sensitive.tolist(), rows=coded.rows)
    return not checker.problems()


def recoded(coded: Coded, every: list, method: str, limit: float, seed: int) -> Recoding:
    if method == "full domain":
        levels = {column.name: seed >> j & 1 for j, column in enumerate(coded.columns)}
        return full_domain.recode(coded, every, levels)
    return local.recode(
        coded, k=every[0].k, models=every[1:], method=method, suppression_limit=limit
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 6),
    asked=models,
    method=st.sampled_from(["mondrian", "relaxed", "microaggregation", "full domain"]),
    limit=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_no_engine_breaks_a_model(shape, seed, k, asked, method, limit):
    coded = table(shape, seed)
    every = [KAnonymity(k), *asked]
    absent = any(isinstance(m, DeltaDisclosure) and m.absent for m in asked)
    refused = None
    try:
        made = recoded(coded, every, method, limit, seed)
    except FolkmootError as error:
        refused = error.code
    if refused is not None:
        event(f"{method}: {refused}")
        if refused == "config.invalid":  # classes that look alike cannot stay apart
            assert absent
            assert method in {"relaxed", "microaggregation"}
        else:
            assert refused in {"data.too-few-rows", "data.privacy-model", "data.suppression"}
            assert method != "full domain"
            assert absent or not possible(coded, every), "refused a table that can be anonymised"
        return
    event(f"{method}: {'all suppressed' if made.suppressed == coded.rows else 'recoded'}")
    verify_recoding(coded, made, every)
    if method != "full domain":
        assert made.suppressed <= limit * coded.rows
        assert coded.rows >= k


def test_the_checker_would_notice():
    """One row moved into a class of its own, and the same check fails."""
    coded = table("plain", 11)
    made = local.recode(coded, k=3)
    verify_recoding(coded, made, [KAnonymity(3)])
    with pytest.raises(Exception, match="k-anonymity"):
        verify_recoding(coded, made, [KAnonymity(int(made.sizes().min()) + 1)])
