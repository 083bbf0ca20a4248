"""Masks, shares, boxes: what they hide, and what they are bound to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import SecureError
from folkmoot.identity import public_text
from folkmoot.identity.agreement import agreement_key, agreement_public
from folkmoot.secure import shamir
from folkmoot.secure.boxes import Sealer, open_box, seal_box
from folkmoot.secure.layout import Layout, Limits
from folkmoot.secure.masks import (
    CHUNK,
    SEED_BYTES,
    Binding,
    add_masks,
    commitment,
    hkdf,
    own_masks,
    pair_key,
    self_key,
)

BINDING = Binding("fed", "run", 1, "train")
OTHERS = [
    Binding("fed2", "run", 1, "train"),
    Binding("fed", "run2", 1, "train"),
    Binding("fed", "run", 2, "train"),
    Binding("fed", "run", 1, "evaluate"),
]


def _pair():
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return one, other, one.public_key().public_bytes_raw(), other.public_key().public_bytes_raw()


def test_hkdf_is_that_of_rfc_5869():
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    salt, info = b"folkmoot-secure-1 pair", b'{"a":1}'
    for length in (16, 32, 100):
        expected = HKDF(SHA256(), length, salt, info).derive(bytes(range(32)))
        assert hkdf(bytes(range(32)), "pair", {"a": 1}, length) == expected


def test_seeds_have_128_bits_and_every_bit_reaches_the_mask():
    """Not folded into fewer: no two of 129 seeds that differ by a bit share a key or a mask."""
    assert SEED_BYTES * 8 == 128
    seed = bytes(range(16))
    seeds = [seed]
    for bit in range(128):
        seeds.append((int.from_bytes(seed) ^ 1 << bit).to_bytes(16))
    keys = [self_key(s, BINDING, "a") for s in seeds]
    assert len({key[:16] for key in keys}) == 129
    assert len({key[16:] for key in keys}) == 129
    masks = []
    for key in keys:
        vector = np.zeros(4, np.uint64)
        add_masks(vector, [key])
        masks.append(vector.tobytes())
    assert len(set(masks)) == 129
    with pytest.raises(ValueError, match="16 bytes"):
        self_key(seed[:4], BINDING, "a")
    for half in (0, 16):  # both the AES key and the counter matter
        changed = bytearray(keys[0])
        changed[half] ^= 1
        vector = np.zeros(4, np.uint64)
        add_masks(vector, [bytes(changed)])
        assert vector.tobytes() != masks[0]


def test_a_pair_agrees_and_every_binding_gives_another_key():
    one, other, one_public, other_public = _pair()
    key = pair_key(one, other_public, BINDING, ("a", "b"), "b")
    assert key == pair_key(other, one_public, BINDING, ("b", "a"), "a")
    keys = {pair_key(one, other_public, b, ("a", "b"), "b") for b in OTHERS}
    keys |= {pair_key(one, other_public, BINDING, ("a", "c"), "c"), key}
    assert len(keys) == 6
    seed = bytes(16)
    keys = {self_key(seed, b, "a") for b in (BINDING, *OTHERS)} | {self_key(seed, BINDING, "b")}
    assert len(keys) == 6
    hidden = {commitment(seed, b, "a") for b in (BINDING, *OTHERS)}
    assert len(hidden | {commitment(seed, BINDING, "b"), commitment(b"1" * 16, BINDING, "a")}) == 7


def test_a_key_of_low_order_is_refused():
    for weak in (bytes(32), b"\x01" + bytes(31), b"short"):
        with pytest.raises(SecureError) as caught:
            pair_key(X25519PrivateKey.generate(), weak, BINDING, ("a", "b"), "b")
        assert (caught.value.code, caught.value.site) == ("secure.key", "b")


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("chunks", [0, 0.4, 1, 2.3])
def test_masks_cancel_for_any_length(dtype, chunks):
    size = int(CHUNK / np.dtype(dtype).itemsize * chunks)
    sites = ["a", "b", "c"]
    keys = {s: X25519PrivateKey.generate() for s in sites}
    public = {s: k.public_key().public_bytes_raw() for s, k in keys.items()}
    rng = np.random.default_rng(0)
    plain = {s: rng.integers(0, 2**32, size).astype(dtype) for s in sites}
    total, selves = np.zeros(size, dtype), []
    for s in sites:
        peers = {o: public[o] for o in sites if o != s}
        add, subtract = own_masks(BINDING, s, keys[s].private_bytes_raw(), bytes(16), peers)
        masked = plain[s].copy()
        add_masks(masked, add, subtract)
        if size:
            assert np.mean(masked == plain[s]) < 0.01
        total += masked
        selves.append(self_key(bytes(16), BINDING, s))
    add_masks(total, (), selves)
    assert (total == sum(plain.values())).all()


def test_masks_look_uniform():
    vector = np.zeros(1 << 20, np.uint32)
    add_masks(vector, [bytes(range(32))])
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = vector.nbytes / 256
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert 150 < chi < 380  # 255 degrees of freedom, far tails


def test_masks_take_rings_only():
    for vector in (np.zeros(3), np.zeros(3, np.int64), np.zeros((4, 4), np.uint64)[:, ::2]):
        with pytest.raises(ValueError, match="contiguous"):
            add_masks(vector, [bytes(32)])
    with pytest.raises(ValueError, match="32 bytes"):
        add_masks(np.zeros(3, np.uint64), [bytes(4)])


@given(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.sampled_from([1, 16, 32, 33]),
    st.data(),
)
def test_any_threshold_of_shares_give_the_secrets(sizes, length, data):
    n, threshold = sizes
    secrets = data.draw(
        st.lists(st.binary(min_size=length, max_size=length), min_size=1, max_size=4)
    )
    shares = shamir.split(secrets, range(1, n + 1), threshold)
    chosen = data.draw(st.permutations(range(n)))[:threshold]
    assert shamir.combine(shares[chosen], [i + 1 for i in chosen], length) == secrets
    assert shamir.combine(shares, range(1, n + 1), length) == secrets


def test_fewer_shares_are_independent_of_the_secret():
    """For every secret there is a polynomial through threshold - 1 given shares."""
    shares = shamir.split([bytes(16)], range(1, 6), 3)
    assert shamir.combine(shares[:2], [1, 2], 16) != [bytes(16)]
    firsts = {shamir.split([bytes(16)], range(1, 6), 3)[0].tobytes() for _ in range(50)}
    assert len(firsts) == 50


def test_shares_of_equal_secrets_are_uniform():
    shares = shamir.split([b"\xff" * 16] * 20_000, [1, 2], 2)[0].ravel()
    assert shares.max() < shamir.PRIME
    low, high = np.percentile(shares / shamir.PRIME, [25, 75])
    assert abs(low - 0.25) < 0.01
    assert abs(high - 0.75) < 0.01


def test_the_extreme_numbers_of_the_field():
    top = b"\xff" * 32
    shares = shamir.split([top, bytes(32)], [shamir.PRIME - 1, 1, 77], 3)
    assert shamir.combine(shares, [shamir.PRIME - 1, 1, 77], 32) == [top, bytes(32)]
    for bad in ([1, 1, 2], [0, 1, 2], [1, 2, shamir.PRIME]):
        with pytest.raises(ValueError, match="distinct points"):
            shamir.split([top], bad, 2)
    with pytest.raises(ValueError, match="threshold"):
        shamir.split([top], [1, 2], 3)


def test_a_false_share_is_no_share():
    secret = b"s" * 32
    shares = shamir.split([secret], range(1, 4), 2)
    shares[0, 0, -1] ^= 1 << 20
    assert shamir.combine(shares[:2], [1, 2], 32) != [secret]


def test_a_box_opens_for_its_receiver_only():
    one, other, one_public, other_public = _pair()
    box = seal_box(b"share", one, other_public, "run", "a", "b")
    assert open_box(box, other, one_public, "run", "a", "b") == b"share"
    assert b"share" not in box
    changed = bytearray(box)
    changed[0] ^= 1
    third = X25519PrivateKey.generate()
    attempts = itertools.chain(
        [(bytes(changed), other, one_public, "run", "a", "b")],
        [(box[:-1], other, one_public, "run", "a", "b")],
        [(box, other, one_public, "other run", "a", "b")],
        [(box, other, one_public, "run", "c", "b")],  # in another's name
        [(box, one, other_public, "run", "b", "a")],  # reflected
        [(box, other, one_public, "run", "a", "c")],  # to another
        [(box, third, one_public, "run", "a", "b")],
        [(box, other, third.public_key().public_bytes_raw(), "run", "a", "b")],
    )
    for attempt in attempts:
        with pytest.raises(SecureError) as caught:
            open_box(*attempt)
        assert caught.value.code == "secure.share"


def test_a_listed_signing_key_gives_the_key_of_diffie_hellman():
    """The vector of libsodium's ed25519_convert test, and agreement from both sides."""
    seed = bytes.fromhex("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee")
    known = Ed25519PrivateKey.from_private_bytes(seed)
    assert (
        agreement_public(public_text(known)).hex()
        == "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50"
    )
    for _ in range(20):
        one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        own = agreement_key(one)
        assert own.public_key().public_bytes_raw() == agreement_public(public_text(one))
        there = X25519PublicKey.from_public_bytes(agreement_public(public_text(other)))
        here = X25519PublicKey.from_public_bytes(agreement_public(public_text(one)))
        assert own.exchange(there) == agreement_key(other).exchange(here)
    for bad in ("", "00" * 31, "01" + "00" * 31):
        with pytest.raises(ValueError, match="key"):
            agreement_public(bad)


def test_a_box_needs_the_long_term_key_as_well():
    """Whoever gets hold of a run's sealing key alone opens nothing."""
    runs = [X25519PrivateKey.generate() for _ in range(2)]
    sites = [Ed25519PrivateKey.generate() for _ in range(2)]
    sealers = [Sealer(r, agreement_key(s)) for r, s in zip(runs, sites, strict=True)]
    public = [
        r.public_key().public_bytes_raw() + agreement_public(public_text(s))
        for r, s in zip(runs, sites, strict=True)
    ]
    box = seal_box(b"share", sealers[0], public[1], "run", "a", "b")
    assert open_box(box, sealers[1], public[0], "run", "a", "b") == b"share"
    stolen = Sealer(runs[1], X25519PrivateKey.generate())
    with pytest.raises(SecureError):
        open_box(box, stolen, public[0], "run", "a", "b")


def test_two_vectors_are_masked_from_one_stream_without_using_a_bit_twice():
    key = bytes(range(32))
    both = {"narrow": np.zeros(700, np.uint32), "masked": np.zeros(300, np.uint64)}
    add_masks(both, [key])
    whole = np.zeros(300 + 350, np.uint64)
    add_masks(whole, [key])
    assert both["masked"].tobytes() + both["narrow"].tobytes() == whole.tobytes()
    add_masks(both, (), [key])
    assert not both["masked"].any()
    assert not both["narrow"].any()


@pytest.mark.parametrize(("sites", "bits"), [(2, 32), (64, 32), (511, 32), (512, 64), (4000, 64)])
def test_32_bits_are_taken_where_the_bound_proves_them_enough(sites, bits):
    """Values up to 0.5 and weights of one: the step is 2^-22 of that, or 64 bits are taken."""
    limits = Limits(sites, 0.5, 1.0, 1e6, step=0.5 * 2.0**-22)
    delta = np.linspace(-0.5, 0.5, 11)
    parts = {"update": {"delta": delta, "loss": np.array(1.5)}}
    layout = Layout.of({"update": ("linear", parts["update"])}, limits)
    assert {b.array: b.grid.bits for b in layout.blocks} == {"": 64, "delta": bits, "loss": 64}
    assert Layout.from_dict(layout.to_dict()) == layout
    total = layout.zeros()
    assert total.keys() == ({"masked", "narrow"} if bits == 32 else {"masked"})
    for site in range(3):
        seed = bytes([site]) * 16
        one = layout.encode(parts, {"update": 1.0}, seed, outside="clip")
        for name, vector in total.items():
            np.add(vector, one[name], out=vector)
    found, weights = layout.decode(total)
    assert weights == {"update": 3.0}
    bound = layout.error_bounds(3)["update.delta"] / 3
    assert np.abs(found["update"]["delta"] - delta).max() <= bound <= 0.5 * 2.0**-22
    most = Layout.of({"update": ("linear", {"delta": delta})}, limits).blocks[-1].grid
    assert sites * most.most <= most.largest  # all sites at the limit do not overflow
    free = Limits(sites, 0.5, 1.0, 1e6)
    assert Layout.of({"update": ("linear", parts["update"])}, free).narrow == 0
