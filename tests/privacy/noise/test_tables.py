"""Boundaries in exact arithmetic, and the paths that no test would meet by chance."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.tables import DISTANCE, ONE, Table, exp_minus


class Script(Entropy):
    """Hands out the words that a test wrote down."""

    __slots__ = ("parts",)

    def __init__(self, *parts: Any) -> None:
        super().__init__(b"")
        self.parts = list(parts)

    def words(self, n: int, dtype: Any) -> Any:
        return np.array(self.parts.pop(0), dtype)

    def bits(self, n: int) -> int:
        return int(self.parts.pop(0))


@given(st.fractions(min_value=0, max_value=200, max_denominator=10**9))
def test_exponentials_are_right_to_240_bits(x: Fraction) -> None:
    with localcontext() as context:
        context.prec = 120
        true = (Decimal(-x.numerator) / Decimal(x.denominator)).exp()
        error = abs(Decimal(exp_minus(x)) / Decimal(ONE) - true)
        assert error <= true * Decimal(2) ** -236 + Decimal(2) ** -255


def test_boundaries_of_a_gaussian_table_against_decimals() -> None:
    from folkmoot.privacy.noise.discrete_gaussian import _table

    variance = Fraction(37, 3)
    table = _table(variance)
    with localcontext() as context:
        context.prec = 100
        top = Decimal(2 * variance.numerator) / Decimal(variance.denominator)
        law = [(-(Decimal(x) ** 2) / top).exp() for x in range(-120, 121)]
        whole, running, worst = sum(law), Decimal(0), Decimal(0)
        skipped = 120 - table.largest
        for x, weight in enumerate(law):
            running += weight
            if 0 <= (j := x - skipped) < len(table._bounds):
                gap = Decimal(table._bounds[j]) / Decimal(2) ** 192 - running / whole
                worst = max(worst, abs(gap))
    assert worst * 2 * len(law) < Decimal(DISTANCE)


def test_every_cell_and_search_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    weights = [int(w) for w in rng.integers(0, 2**40, 300)] + [0, 0, 1, 2**20]
    table = Table(weights, -7)
    draws = 4000
    cells = rng.integers(0, 2**16, draws)
    low = rng.integers(0, 2**64, draws, dtype=np.uint64)
    out = np.empty(draws, np.int32)
    rest = np.isin(cells, [b >> 176 for b in table._bounds])
    table.fill(out, Script(cells, low[rest]))
    searched = iter(low[rest])
    for i in range(draws):
        low48 = int(next(searched)) >> 16 if rest[i] else 0
        uniform = int(cells[i]) << 176 | low48 << 128
        assert out[i] == -7 + sum(b <= uniform for b in table._bounds)


def test_ties_are_broken_by_more_bits() -> None:
    table = Table([1, 2], 0)  # boundary at a third: 0x5555…
    cell, low = 0x5555, 0x555555555555 << 16
    for more, value in (
        (0, 0),
        (int("5" * 32, 16) - 1, 0),
        (int("5" * 32, 16), 1),
        (2**128 - 1, 1),
    ):
        out = np.empty(1, np.int32)
        script = Script([cell], [low], more)
        table.fill(out, script)
        assert not script.parts  # the tie was seen
        assert out[0] == value


def test_seeds_and_keys() -> None:
    assert (Entropy(b"a").words(9, "<u8") == Entropy(b"a").words(9, "<u8")).all()
    assert Entropy(b"a").bits(80) != Entropy(b"b").bits(80)
    assert Entropy().bits(80) != Entropy().bits(80)
    assert Entropy(b"").seeded
    assert not Entropy().seeded
    # In parts or at once, the stream is one; more than one block of zeros is one stream as well.
    parts = Entropy(b"a")
    joined = np.concatenate([parts.words(2**17, "<u2"), parts.words(2**17, "<u2")])
    assert (joined == Entropy(b"a").words(2**18, "<u2")).all()


def test_a_fork_takes_a_new_key() -> None:
    import os

    entropy = Entropy()
    entropy.words(1, "u1")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.write(write, entropy.words(4, "<u8").tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32)
    os.close(read)
    os.close(write)
    assert len(theirs) == 32
    assert theirs != entropy.words(4, "<u8").tobytes()


@pytest.mark.parametrize("n", [1, 2, 3, 10, 256, 1000])
def test_below_is_uniform(n: int) -> None:
    from scipy import stats

    entropy = Entropy(b"below")
    seen = np.bincount([entropy.below(n) for _ in range(5000)], minlength=n)
    assert len(seen) == n
    assert n == 1 or stats.chisquare(seen).pvalue > 1e-4
    with pytest.raises(ValueError, match="positive"):
        entropy.below(0)


def test_a_keystream_is_not_all_zero_and_is_balanced() -> None:
    bits = np.unpackbits(Entropy().words(125_000, "u1"))
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / math.sqrt(bits.size)
