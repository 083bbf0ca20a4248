"""Size of the intersection of two sites' sets, store-and-forward: ECDH over Curve25519.

::

    A: {a H(x)}, in random order  ──sealed──▶ B: {b a H(x)}, as sorted digests ──▶ coordinator
    B: {b H(y)}, in random order  ──sealed──▶ A: {a b H(y)}, as sorted digests ──▶ coordinator

(Meadows 1986; Huberman, Franklin & Hogg 1999; the variant of Ion et al. 2019, doi:10.1109/EuroSP48549.
2020.00031.)  The coordinator counts equal digests: neither it nor a site learns *which* are equal, for
it knows no identifier and no scalar, and each site sees only points under the other's fresh scalar.  All
rests on decisional Diffie–Hellman in the random-oracle model, against parties that follow the protocol.

**Hashing to the curve.**  SHA-512 of the item under a domain gives two strings, each is mapped by
libsodium's Elligator 2 into the prime-order subgroup, and the points are added: indifferentiable from
a random oracle into that group (Brier et al. 2010; RFC 9380, ``hash_to_curve``).  No discrete logarithm
of a hash is known to anybody.  The point's Montgomery *u* then goes through X25519.

**Twist and small subgroups.**  Every own point lies in the prime-order subgroup of the curve proper, so
that no bit (curve or twist) tells items apart.  A hostile partner may send any *u*: X25519's clamped
scalars are multiples of 8, which takes small subgroups of curve and twist to zero (refused), and both
have prime order beside that, so that the answer says nothing of the scalar.

Signs are lost (*u* of P and -P are equal), which makes no two hashes equal but with probability 2^-250.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, SecureError

__all__ = [
    "DIGEST",
    "POINT",
    "blind",
    "digests",
    "filler",
    "hash_to_curve",
    "intersection_size",
    "shuffled",
]

#: Bytes of a point, and of what is compared.
POINT, DIGEST = 32, 16
_P = 2**255 - 19
#: Points per call of a thread.
_CHUNK = 2048


def hash_to_curve(items: Sequence[bytes], domain: bytes) -> list[bytes]:
    """Montgomery *u* of every item's point, 32 bytes each; O(items), about 0.05 ms each.

    Parameters
    ----------
    items : sequence of bytes
    domain : bytes
        Separates this use from any other; a run's.
    """
    from_uniform, add = _sodium("crypto_core_ed25519_from_uniform", "crypto_core_ed25519_add")
    prefix = hashlib.sha512(len(domain).to_bytes(8, "little") + domain)

    def edwards(item: bytes) -> bytes:
        state = prefix.copy()
        state.update(item)
        both = state.digest()
        return bytes(add(from_uniform(both[:32]), from_uniform(both[32:])))

    return _to_montgomery(_mapped(edwards, items))


def blind(points: Sequence[bytes], scalar: bytes, *, site: str = "") -> list[bytes]:
    """Multiply points by a secret scalar (X25519); O(points), about 0.04 ms each.

    Parameters
    ----------
    points : sequence of bytes
        32 bytes each.
    scalar : bytes
        32 random bytes, fresh for every pair of sites and run.
    site : str
        Whose points they are, for errors.

    Raises
    ------
    SecureError
        ``secure.share`` for a point of small order: nothing is answered.
    """
    (multiply,) = _sodium("crypto_scalarmult")

    def one(point: bytes) -> bytes:
        return bytes(multiply(scalar, point))

    try:
        return _mapped(one, points)
    except Exception as error:  # PyNaCl's own; with an all-zero result
        if type(error).__module__.partition(".")[0] != "nacl":
            raise
        raise SecureError(
            "secure.share",
            f"A blinded set of site {site or 'another site'} holds a point of small order.",
            "Find out who altered it; the site that sent it may be hostile.",
            site=site or None,
        ) from None


def filler(count: int) -> list[bytes]:
    """Random points that nobody has an item for, in the prime-order subgroup."""
    (base,) = _sodium("crypto_scalarmult_base")
    return _mapped(lambda scalar: bytes(base(scalar)), [os.urandom(32) for _ in range(count)])


def shuffled(points: Sequence[bytes]) -> bytes:
    """Points in an order from the operating system's entropy, end to end."""
    order = sorted((os.urandom(16), point) for point in points)
    return b"".join(point for _, point in order)


def digests(points: Iterable[bytes], domain: bytes) -> NDArray[np.uint8]:
    """What the coordinator compares: 128-bit digests, sorted so that no order is told, (n, 16)."""
    prefix = hashlib.sha256(b"folkmoot overlap digest\0" + domain)

    def one(point: bytes) -> bytes:
        state = prefix.copy()
        state.update(point)
        return state.digest()[:DIGEST]

    data = b"".join(sorted(map(one, points)))
    return np.frombuffer(data, np.uint8).reshape(-1, DIGEST)


def intersection_size(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Equal digests of two sets, O(n log n); each set's own are distinct.

    Raises
    ------
    SecureError
        ``secure.share`` where a set holds a digest twice.
    """
    flat = [np.ascontiguousarray(a).view(np.dtype((np.void, DIGEST))).ravel() for a in (one, other)]
    for each in flat:
        if len(np.unique(each)) != len(each):
            raise SecureError(
                "secure.share",
                "A twice-blinded set holds an element twice.",
                "Find out which site sent it; its set is not what the protocol makes.",
            )
    return int(np.isin(flat[0], flat[1], assume_unique=True).sum())


def _mapped(one: Callable[[bytes], bytes], values: Sequence[bytes]) -> list[bytes]:
    """Over all cores: libsodium works without the interpreter's lock."""
    workers = len(os.sched_getaffinity(0))
    if len(values) <= _CHUNK or workers < 2:
        return [one(value) for value in values]
    parts = [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda part: [one(value) for value in part], parts)
        return [value for part in found for value in part]


def _to_montgomery(points: Sequence[bytes]) -> list[bytes]:
    """u = (1 + y) / (1 - y) (RFC 7748, section 4.1), with one inversion for all points."""
    if not points:
        return []
    ys = [int.from_bytes(point, "little") & (2**255 - 1) for point in points]
    below = [(1 - y) % _P for y in ys]
    products = [1]
    for value in below:
        products.append(products[-1] * value % _P)
    inverse = pow(products[-1], -1, _P)  # no point is the neutral one: y = 1 would end here
    out = [b""] * len(ys)
    for i in range(len(ys) - 1, -1, -1):
        u = (1 + ys[i]) * (inverse * products[i] % _P) % _P
        out[i] = u.to_bytes(32, "little")
        inverse = inverse * below[i] % _P
    return out


def _sodium(*names: str) -> list[Callable[..., bytes]]:
    try:
        from nacl import bindings

        return [getattr(bindings, name) for name in names]
    except (ImportError, AttributeError):
        raise ConfigError(
            "config.installation",
            "Overlaps of people need PyNaCl 1.6 or newer.",
            "Install the site extra: uv pip install -e '.[site]'.",
        ) from None
