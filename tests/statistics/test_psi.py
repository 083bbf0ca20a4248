"""Overlaps by ECDH: the group, the count, and what a hostile partner can send."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from folkmoot.errors import SecureError
from folkmoot.secure import psi
from site_tasks.measure.overlap import normalised

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493


def ladder(u: int, scalar: int) -> int | None:
    """Montgomery ladder (RFC 7748) without clamping; None for the neutral element."""
    x1, x2, z2, x3, z3 = u, 1, 0, u, 1
    for bit in reversed(range(scalar.bit_length())):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return None if z2 == 0 else x2 * pow(z2, -1, P) % P


def test_hashes_and_filler_lie_in_the_prime_order_subgroup_of_the_curve() -> None:
    points = [*psi.hash_to_curve([b"%d" % i for i in range(12)], b"d"), *psi.filler(6)]
    assert len(set(points)) == 18
    for point in points:
        u = int.from_bytes(point, "little")
        assert pow(u**3 + 486662 * u**2 + u, (P - 1) // 2, P) == 1  # on the curve, not its twist
        assert ladder(u, ORDER) is None


def test_hashing_depends_on_item_and_domain() -> None:
    once = psi.hash_to_curve([b"a", b"b"], b"d")
    assert once == psi.hash_to_curve([b"a", b"b"], b"d")
    assert not set(once) & set(psi.hash_to_curve([b"a", b"b"], b"e"))
    assert psi.hash_to_curve([], b"d") == []


def test_blinding_is_x25519_and_commutes() -> None:
    a, b = os.urandom(32), os.urandom(32)
    points = psi.hash_to_curve([b"%d" % i for i in range(5)], b"d")
    assert psi.blind(psi.blind(points, a), b) == psi.blind(psi.blind(points, b), a)
    key = X25519PrivateKey.from_private_bytes(a)
    other = [key.exchange(X25519PublicKey.from_public_bytes(point)) for point in points]
    assert psi.blind(points, a) == other


def test_many_points_keep_their_order_over_threads() -> None:
    points = psi.filler(16) * 300  # more than one chunk
    scalar = os.urandom(32)
    assert psi.blind(points, scalar) == psi.blind(points[:16], scalar) * 300


def test_the_size_is_that_of_the_sets() -> None:
    left, right = ({b"%d" % i for i in range(40)}, {b"%d" % i for i in range(29, 90)})
    a, b = os.urandom(32), os.urandom(32)
    sent = psi.shuffled(psi.blind(psi.hash_to_curve(sorted(left), b"d"), a))
    back = psi.shuffled(psi.blind(psi.hash_to_curve(sorted(right), b"d"), b))
    twice = [
        psi.digests(psi.blind([data[i : i + 32] for i in range(0, len(data), 32)], scalar), b"x")
        for data, scalar in ((sent, b), (back, a))
    ]
    assert [len(one) for one in twice] == [40, 61]
    assert psi.intersection_size(*twice) == len(left & right) == 11


@pytest.mark.parametrize(
    "point",
    [0, 1, P - 1, P, 325606250916557431795983626356110631294008115727848805560023387167927233504],
)
def test_points_of_small_order_are_refused(point: int) -> None:
    with pytest.raises(SecureError) as caught:
        psi.blind([point.to_bytes(32, "little")], os.urandom(32), site="site-b")
    assert caught.value.code == "secure.share"
    assert caught.value.site == "site-b"


def test_an_element_twice_is_refused() -> None:
    one = np.frombuffer(bytes(32), np.uint8).reshape(2, 16)
    with pytest.raises(SecureError, match="twice"):
        psi.intersection_size(one, one[:1])


@pytest.mark.parametrize(
    ("how", "values", "expected"),
    [
        ("exact", [" Ada ", "ada"], [b" Ada ", b"ada"]),
        ("text", ["MÜLLER, Jörg", "muller jorg", "Müller-Jörg ", ""], [b"mullerjorg"]),
        ("digits", ["756.1234.5678.97", "7561234567897", "none"], [b"7561234567897"]),
        ("text", [17, 17, "17"], [b"17"]),
    ],
)
def test_identifiers_are_spelt_alike(how: str, values: list[object], expected: list[bytes]) -> None:
    assert normalised(values, how) == expected
