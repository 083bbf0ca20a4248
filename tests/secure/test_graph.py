"""Neighbours, thresholds and what a site demands of a list of survivors."""

from __future__ import annotations

import random

import pytest

from folkmoot.errors import ConfigError, SecureError
from folkmoot.secure.graph import _largest, complete, default_threshold, ring, sparse

NAMES = [f"site-{i:04d}" for i in range(300)]


def test_the_default_threshold_is_two_thirds_and_one():
    assert [default_threshold(n) for n in (1, 2, 3, 4, 6, 16, 64)] == [1, 2, 3, 3, 5, 11, 43]


def test_a_complete_graph_counts_survivors():
    graph = complete(NAMES[:6])
    assert graph.of(NAMES[2]) == (*NAMES[:2], *NAMES[3:6])
    graph.check(NAMES[:5])
    with pytest.raises(SecureError) as caught:
        graph.check(NAMES[:4])
    assert caught.value.code == "secure.threshold"


@pytest.mark.parametrize("threshold", [0, 3, 7])
def test_a_threshold_that_cannot_be_reached_or_opens_twice_is_refused(threshold):
    with pytest.raises(ConfigError, match="more than half"):
        complete(NAMES[:6], threshold)


def test_the_ring_follows_its_seed_alone():
    shuffled = random.Random(1).sample(NAMES, len(NAMES))
    assert ring(NAMES, "a") == ring(shuffled, "a") != ring(NAMES, "b")


def test_a_sparse_graph_is_regular_symmetric_and_smaller():
    graph = sparse(NAMES, "seed", colluding=0.05, failing=0.1)
    assert graph.degree < 80
    near = {site: set(graph.of(site)) for site in NAMES}
    assert all(len(n) == graph.degree and site not in n for site, n in near.items())
    assert all(site in near[other] for site in NAMES for other in near[site])
    assert 2 * graph.threshold > graph.degree + 1


def test_small_federations_stay_complete():
    assert sparse(NAMES[:8], "seed", colluding=0.2, failing=0.2).complete
    with pytest.raises(ConfigError):
        sparse(NAMES, "seed", colluding=0.3, failing=0.25)


def test_stated_failures_pass_and_holes_in_the_ring_do_not():
    graph = sparse(NAMES, "seed", colluding=0.05, failing=0.1)
    rng = random.Random(2)
    for _ in range(100):
        graph.check(rng.sample(NAMES, 270))
    width = graph.degree // 2
    hole = set(graph.order[20 : 20 + width - graph.present + 1])
    with pytest.raises(SecureError, match="are needed to"):
        graph.check([site for site in NAMES if site not in hole])
    # One site cut off from all others: both of its sides are missing.
    alone = {*graph.order[100 - width : 100], *graph.order[101 : 101 + width]}
    with pytest.raises(SecureError):
        graph.check([site for site in NAMES if site not in alone])


def test_the_tail_is_that_of_the_hypergeometric_distribution():
    n, marked, drawn, bits = 100, 20, 30, 10
    x = _largest(n, marked, drawn, bits)
    rng = random.Random(3)
    draws = [sum(i < marked for i in rng.sample(range(n), drawn)) for _ in range(20_000)]
    assert sum(d > x for d in draws) / len(draws) < 2 * 2**-bits
    assert sum(d > x - 2 for d in draws) / len(draws) > 2**-bits


def test_survivors_that_pass_are_connected_without_the_colluders():
    """Any sites that collude within the stated rate: the honest survivors stay in one piece."""
    graph = sparse(NAMES, "seed", colluding=0.05, failing=0.1)
    rng = random.Random(4)
    for _ in range(30):
        bad, gone = set(rng.sample(NAMES, 15)), set(rng.sample(NAMES, 30))
        alive = set(NAMES) - gone
        graph.check(alive)
        honest = alive - bad
        seen, ahead = set(), [min(honest)]
        while ahead:
            site = ahead.pop()
            if site not in seen:
                seen.add(site)
                ahead += [o for o in graph.of(site) if o in honest]
        assert seen == honest
