"""Masked sums equal plain ones bit for bit, whoever is lost and when."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folkmoot.errors import SecureError
from folkmoot.secure import shamir
from folkmoot.secure.graph import default_threshold
from folkmoot.secure.grid import Grid
from folkmoot.secure.rehearsal import Rehearsal
from folkmoot.secure.session import Keys

#: 10,000 were run for the benchmarks' table; continuous integration takes fewer.
CASES = int(os.environ.get("FOLKMOOT_SECURE_CASES", "150"))
_known: dict[int, Rehearsal] = {}


def _federation(n: int) -> Rehearsal:
    """Set up once per size, with a sum for every case: keys are never used twice."""
    found = _known.get(n)
    if found is None or found.used == len(found.session.sums):
        found = Rehearsal([f"s{i}" for i in range(n)], 50)
        found.set_up()
        found.used = 0
        _known[n] = found
    return found


hard = st.one_of(
    st.floats(-1, 1),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 2.0**-60, 1 - 2.0**-53]),
    st.floats(allow_nan=False, allow_infinity=False),
)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_masked_equals_unmasked_bit_for_bit(data):
    n = data.draw(st.integers(2, 7), "sites")
    clip = data.draw(st.floats(1e-3, 1e3), "clip")
    weights = data.draw(st.lists(st.integers(1, 10**6), min_size=n, max_size=n), "weights")
    bits = data.draw(st.sampled_from([32, 64]), "bits")
    size = data.draw(st.integers(1, 6), "numbers")
    values = data.draw(
        st.lists(st.lists(hard, min_size=size, max_size=size), min_size=n, max_size=n), "values"
    )
    rounding = data.draw(st.sampled_from(["stochastic", "truncate", "nearest"]), "rounding")
    threshold = default_threshold(n)
    lost = data.draw(st.integers(0, n - threshold), "lost before upload")
    silent = data.draw(st.integers(0, n - threshold - lost), "lost before unmasking")
    order = data.draw(st.permutations(range(n)), "order")

    rehearsal = _federation(n)
    index = rehearsal.used
    rehearsal.used += 1
    names = [f"s{i}" for i in order]
    largest = float(max(weights))
    value_grid = Grid.fit(clip * largest, n, bits=bits)
    weight_grid = Grid.fit(largest, n, bits=bits, finest=0)
    plain = {}
    for i, name in enumerate(names):
        x = np.clip(np.array(values[i]), -clip, clip) * weights[i]
        seed = name.encode().ljust(16, b"\0")
        encoded = value_grid.encode(x, rounding, seed=seed, outside="clip")
        weight = weight_grid.encode(np.array([float(weights[i])]), "nearest")
        plain[name] = np.concatenate([encoded, weight])
    survivors = names[lost:]
    uploads = {name: rehearsal.upload(name, plain[name].copy(), index)[0] for name in survivors}
    total = rehearsal.open(uploads, survivors[silent:], index)

    expected = sum(plain[name] for name in survivors)
    assert total.dtype == expected.dtype
    assert total.tobytes() == expected.tobytes()
    exact = [sum(int(value_grid.centred(plain[s])[j]) for s in survivors) for j in range(size)]
    assert value_grid.centred(total)[:size].tolist() == exact  # no overflow
    if weight_grid.exponent == 0:
        assert weight_grid.centred(total)[-1] == sum(weights[lost:])


def test_one_vector_alone_says_nothing():
    """A masked zero and a masked one are both uniform: the mask covers every number."""
    rehearsal = Rehearsal(["a", "b", "c"])
    rehearsal.set_up()
    size = 4096
    zeros, _ = rehearsal.upload("a", np.zeros(size, np.uint64))
    assert len(np.unique(zeros)) == size
    assert abs(zeros.astype(float).mean() / 2**64 - 0.5) < 5 / np.sqrt(12 * size)


def test_losses_in_the_set_up_leave_the_others_whole():
    names = [f"s{i}" for i in range(9)]
    rehearsal = Rehearsal(names)
    rehearsal.set_up(no_keys=["s0"], no_shares=["s4"])
    assert rehearsal.members == frozenset(names) - {"s0", "s4"}
    alive = [n for n in names if n in rehearsal.members and n != "s7"]
    plain = {n: np.arange(5, dtype=np.uint32) + i for i, n in enumerate(alive)}
    uploads = {n: rehearsal.upload(n, plain[n].copy())[0] for n in alive}
    assert (rehearsal.open(uploads) == sum(plain.values())).all()


def test_a_set_up_below_the_threshold_does_not_begin():
    rehearsal = Rehearsal([f"s{i}" for i in range(6)])
    rehearsal.announce(list(rehearsal.sites))
    with pytest.raises(SecureError) as caught:
        rehearsal.share(["s0", "s1", "s2"])
    assert caught.value.code == "secure.threshold"


def test_too_few_answers_open_nothing_and_the_next_round_succeeds():
    names = [f"s{i}" for i in range(6)]
    rehearsal = Rehearsal(names, sums=2)
    rehearsal.set_up()
    for index, answering in ((0, names[:4]), (1, names[:5])):
        plain = {n: np.full(3, i, np.uint64) for i, n in enumerate(names)}
        uploads = {n: rehearsal.upload(n, plain[n].copy(), index)[0] for n in names}
        if index == 0:
            with pytest.raises(SecureError) as caught:
                rehearsal.open(uploads, answering, index)
            assert caught.value.code == "secure.threshold"
        else:
            assert (rehearsal.open(uploads, answering, index) == sum(plain.values())).all()


def test_a_false_share_is_passed_over_while_true_ones_suffice():
    names = [f"s{i}" for i in range(6)]
    rehearsal = Rehearsal(names)
    rehearsal.set_up()
    party = rehearsal.sites["s1"]
    party.held = type(party.held)(
        {dealer: words ^ 1 for dealer, words in party.held.shares.items()}, {}, party.held.pairs
    )
    plain = {n: np.arange(4, dtype=np.uint64) for n in names}
    uploads = {n: rehearsal.upload(n, plain[n].copy())[0] for n in names}
    assert (rehearsal.open(uploads) == sum(plain.values())).all()
    with pytest.raises(SecureError) as caught:
        rehearsal.open(uploads, names[:5])  # exactly the threshold, one of them false
    assert caught.value.code == "secure.share"


def test_threads_change_nothing():
    names = [f"s{i:02d}" for i in range(12)]
    rehearsal = Rehearsal(names)
    rehearsal.set_up()
    plain = {n: np.arange(100_000, dtype=np.uint64) * i for i, n in enumerate(names)}
    uploads = {n: rehearsal.upload(n, plain[n].copy())[0] for n in names[2:]}
    one, two = rehearsal.open(uploads), rehearsal.open(uploads, threads=2)
    assert (one == two).all()
    assert (one == sum(plain[n] for n in names[2:])).all()


def test_a_sparse_federation_sums_exactly():
    names = [f"s{i:03d}" for i in range(120)]
    rehearsal = Rehearsal(names, rates=(0.03, 0.05))
    rehearsal.set_up()
    assert not rehearsal.graph.complete
    plain = {n: np.arange(8, dtype=np.uint32) * i for i, n in enumerate(names)}
    alive = [n for i, n in enumerate(names) if i % 25]
    uploads = {n: rehearsal.upload(n, plain[n].copy())[0] for n in alive}
    silent = alive[::40]
    total = rehearsal.open(uploads, [n for n in alive if n not in silent])
    assert (total == sum(plain[n] for n in alive)).all()


def test_what_one_round_reveals_does_not_open_another():
    """With every secret of round 0 known, round 1's vector is as uniform and its keys as unknown."""
    names = ["a", "b", "c", "d"]
    rehearsal = Rehearsal(names, sums=2)
    rehearsal.set_up()
    uploads = {n: rehearsal.upload(n, np.zeros(64, np.uint64), 0)[0] for n in names[:3]}
    listed = rehearsal.list_of(uploads, 0)
    answers = {n: rehearsal.answer(n, listed, 0) for n in names[:3]}
    opened = rehearsal.opened(listed, answers)
    assert sorted(opened) == names[:3]
    keys = rehearsal.sites["d"].keys
    for index in (0, 1):
        stack = np.stack([opened[n].keys["d"] for n in names[:3]])[:, None, :]
        found = shamir.combine(stack, [1, 2, 3], 32)
        assert (found == [keys.masks[index]]) == (index == 0)
    masked, _ = rehearsal.upload("d", np.zeros(64, np.uint64), 1)
    again = rehearsal.upload("d", np.zeros(64, np.uint64), 0)[0]
    assert not np.isin(masked, again).any()


def test_keys_are_independent_and_kept_whole():
    keys = Keys.draw(30)
    assert len({keys.seal, *keys.masks}) == 31
    assert len(set(keys.seeds)) == 30
    assert Keys.from_bytes(keys.to_bytes()) == keys
    with pytest.raises(ValueError, match="keys of a run"):
        Keys.from_bytes(keys.to_bytes()[:-1])
