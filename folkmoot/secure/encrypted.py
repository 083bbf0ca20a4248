"""Set-up and rounds of encrypted sums: who makes the key pair, how the sites share it, what they answer.

::

    set-up 1   site  ── Sign(sealing key) ─────────────────▶      as under masks
    set-up 2   first sites of the key list ── Sign(public key; secret key, sealed for every site) ─▶
    upload     site  ── Sign(encrypted numbers and tag), statement ─▶
               sites ◀── list of survivors, sum of their ciphertexts ──  coordinator
    unmask     site  ── Sign(the sum, decrypted and rounded) ─▶   sealed together

The key pair of the first member is used.  The tags (:mod:`folkmoot.secure.tags`) show a site that what
it decrypts is the sum of the listed contributions and nothing else; it sees no other site's ciphertext,
whose key it has.  An answer opens beside those of ``threshold`` sites to the same list
(:mod:`folkmoot.secure.together`), so that no two sums of one round can be had and subtracted.

All sites hold the one secret key: **a site that colludes with the coordinator opens everything.**
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.identity import Roster, sign
from folkmoot.secure import ckks
from folkmoot.secure.boxes import OVERHEAD, Sealer, open_box, seal_box
from folkmoot.secure.lists import context_of, open_list, opened_message
from folkmoot.secure.masks import Binding, hkdf
from folkmoot.secure.session import Announced, Keys, Session
from folkmoot.secure.setup import sealer
from folkmoot.secure.tags import holds, tag, tag_key
from folkmoot.wire import Artefact, decode, digest, encode

__all__ = [
    "Offer",
    "SharedKey",
    "added",
    "agreed_sum",
    "decrypted",
    "encrypted",
    "makers",
    "offer_message",
    "open_offer",
    "take_key",
]


@dataclass(frozen=True)
class Offer:
    """A site's key pair, as it published it.

    Parameters
    ----------
    public : bytes
        The public key.
    sealed : bytes
        The secret key, under a key that ``boxes`` hold.
    boxes : dict of str to bytes
        By receiver.
    """

    public: bytes
    sealed: bytes
    boxes: Mapping[str, bytes]


@dataclass(frozen=True)
class SharedKey:
    """The key pair of a run's encrypted sums, at a site.

    Parameters
    ----------
    maker : str
        Whose it is.
    public, secret : bytes
        Its halves.
    """

    maker: str
    public: bytes
    secret: bytes


def makers(listed: Iterable[str], required: int) -> list[str]:
    """Sites that make a key pair each: one of them is left when no more than a quorum is."""
    names = sorted(listed)
    return names[: max(1, len(names) - required + 1)]


def offer_message(
    session: Session,
    site: str,
    keys: Keys,
    listed: bytes,
    announced: Mapping[str, Announced],
    required: int,
    signing: Ed25519PrivateKey,
) -> tuple[bytes, bytes]:
    """Second message of a site: a new key pair, its secret half sealed for every listed site.

    Parameters
    ----------
    announced : dict of str to Announced
        Opened key messages of all other listed sites.
    required : int
        The plan's quorum: who is needed to make a key pair, :func:`makers`.

    Returns
    -------
    bytes, bytes
        The message, and the secret key for the site's private folder; empty where the site makes
        none.
    """
    public, secret, boxes, sealed = b"", b"", b"", b""
    if site in makers(open_list(listed, session), required):
        public, secret = ckks.new_key_pair()
        once = os.urandom(32)
        sealed = _sealing(once, session, listed, site).encrypt(bytes(12), secret, None)
        own = sealer(keys, signing)
        context = context_of(session, listed)
        boxes = b"".join(
            seal_box(once, own, announced[other].sealing, context, site, other)
            for other in sorted(announced)
        )
    arrays = {
        "public": np.frombuffer(public, np.uint8),
        "sealed": np.frombuffer(sealed, np.uint8),
        "boxes": np.frombuffer(boxes, np.uint8).reshape(-1, 32 + OVERHEAD),
    }
    meta = session.bound(site=site, keys=digest(listed))
    return sign(encode(Artefact("secure-offer", meta, arrays)), signing), secret


def open_offer(
    data: bytes, session: Session, site: str, listed: bytes, required: int, roster: Roster
) -> Offer | None:
    """Check a site's second message; None from a site that makes no key pair.

    Raises
    ------
    SecureError
        ``secure.key``, naming the site: not signed by it, for another run or set-up, or of other
        sizes than a key pair has.
    """
    expect = session.bound(site=site, keys=digest(listed))
    artefact = opened_message(data, "secure-offer", expect, site, roster)
    sites = open_list(listed, session)
    others = [other for other in sorted(sites) if other != site]
    made = site in makers(sites, required)
    arrays = artefact.arrays
    fit = arrays.keys() == {"public", "sealed", "boxes"}
    fit = fit and all(array.dtype == np.uint8 for array in arrays.values())
    if fit:
        shape = (len(others) if made else 0, 32 + OVERHEAD)
        sizes = [arrays[name].size for name in ("public", "sealed")]
        fit = arrays["boxes"].shape == shape
        fit &= all(0 < n <= ckks.MOST_KEY for n in sizes) if made else sizes == [0, 0]
    if not fit:
        raise SecureError(
            "secure.key",
            f"Site {site} sent something else than a key pair for encrypted sums.",
            "Check that the site runs the same version of folkmoot.",
            site=site,
        )
    if not made:
        return None
    boxes = dict(zip(others, map(bytes, arrays["boxes"]), strict=True))
    return Offer(arrays["public"].tobytes(), arrays["sealed"].tobytes(), boxes)


def take_key(
    session: Session,
    site: str,
    own: Sealer,
    listed: bytes,
    maker: str,
    offer: Offer,
    public_keys: bytes,
) -> bytes:
    """The secret key that another site sealed for this one, held against its public half.

    Parameters
    ----------
    maker : str
        Whose key pair it is; ``public_keys`` are those that it seals with.

    Raises
    ------
    SecureError
        ``secure.share`` for a box that cannot be opened, ``secure.key`` for keys that do not fit.
    """
    context = context_of(session, listed)
    once = open_box(offer.boxes[site], own, public_keys, context, maker, site)
    try:
        secret = _sealing(once, session, listed, maker).decrypt(bytes(12), offer.sealed, None)
    except InvalidTag:
        secret = b""
    public = ckks.open_key(offer.public, secret=False, site=maker)
    if not ckks.pairs(public, ckks.open_key(secret, secret=True, site=maker)):
        raise SecureError(
            "secure.key",
            f"The two halves of the key pair that site {maker} made do not fit each other.",
            "Leave the site out, or find out who changed its message; start a new run.",
            site=maker,
        )
    return secret


def encrypted(
    key: SharedKey, binding: Binding, site: str, vector: NDArray[np.uint64], contributors: int
) -> ckks.Cipher:
    """A contribution: the numbers and their tag, encrypted; O(numbers)."""
    packing = ckks.Packing.of(contributors)
    made = tag(tag_key(key.secret, binding), packing.split(vector), site)
    whole = np.append(vector, np.uint64(made))
    return ckks.encrypt(ckks.open_key(key.public, secret=False, site=key.maker), whole, packing)


def added(
    public: bytes, maker: str, uploads: Mapping[str, ckks.Cipher], size: int, contributors: int
) -> bytes:
    """The coordinator's sum of contributions, still encrypted; O(sites · numbers).

    Parameters
    ----------
    uploads : dict of str to Cipher
        Of the survivors.
    size : int
        Numbers of a contribution, without its tag.
    contributors : int
        Most in a sum of the run.

    Raises
    ------
    SecureError
        ``secure.range``, naming the site.
    """
    names, packing = sorted(uploads), ckks.Packing.of(contributors)
    opened = ckks.open_key(public, secret=False, site=maker)
    total = ckks.add(opened, [uploads[n] for n in names], size + 1, packing, names)
    arrays: dict[str, NDArray[Any]] = {"cipher": total.data, "ends": total.ends}
    return encode(Artefact("secure-total", {"size": size}, arrays))


def decrypted(
    key: SharedKey, binding: Binding, total: bytes, survivors: Iterable[str], contributors: int
) -> bytes:
    """What a site answers: the exact sum, where it is that of the survivors; O(numbers).

    Raises
    ------
    SecureError
        ``secure.survivors`` where the tags say that it is another sum; ``secure.range`` for what is
        no encrypted vector of digits.
    """
    packing = ckks.Packing.of(contributors)
    public = ckks.open_key(key.public, secret=False, site=key.maker)
    artefact = decode(total, kind="secure-total")
    size, arrays = artefact.meta.get("size"), artefact.arrays
    if type(size) is not int or size < 1 or arrays.keys() != {"cipher", "ends"}:
        raise _another()
    if packing.ciphertexts(size + 1) != arrays["ends"].size:
        raise _another()
    cipher = ckks.Cipher(arrays["cipher"], arrays["ends"])
    loaded = ckks.load(public, cipher, size + 1, packing, "coordinator")
    own = ckks.open_key(key.secret, secret=True, site=key.maker)
    digits = ckks.decrypt(own, loaded, size + 1, packing)
    tags = sum(int(d) << (packing.digit * i) for i, d in enumerate(digits[:, -1]))
    if not holds(tag_key(key.secret, binding), digits[:, :-1], tags, survivors):
        raise _another()
    found = packing.join(digits[:, :-1])
    return encode(Artefact("secure-sum", {}, {"sum": found}))


def agreed_sum(
    answers: Mapping[str, bytes], size: int, threshold: int
) -> tuple[NDArray[np.uint64], list[str]]:
    """The sum that at least ``threshold`` sites decrypted alike, and the sites that say otherwise.

    Raises
    ------
    SecureError
        ``secure.threshold`` for too few answers; ``secure.share``, naming a site, where they differ.
    """
    found: dict[str, NDArray[np.uint64]] = {}
    odd: list[str] = []
    for site, content in sorted(answers.items()):
        try:
            total = decode(content, kind="secure-sum").arrays["sum"]
            if total.dtype != np.uint64 or total.shape != (size,):
                raise ValueError
            found[site] = total
        except (ProtocolError, KeyError, ValueError):
            odd.append(site)
    counted = Counter(total.tobytes() for total in found.values())
    common, times = counted.most_common(1)[0] if counted else (b"", 0)
    odd = sorted({*odd, *(site for site, total in found.items() if total.tobytes() != common)})
    if times >= threshold:
        return np.frombuffer(common, np.uint64).copy(), odd
    if odd:
        raise SecureError(
            "secure.share",
            f"{len(answers)} sites decrypted the sum, and only {times} of them to the same numbers; "
            f"{threshold} are needed.",
            "At least one of them answers falsely; leave it out of the next run.",
            site=odd[0],
        )
    raise SecureError(
        "secure.threshold",
        f"{times} sites decrypted the sum, {threshold} are needed.",
        "Wait for the missing sites' answers and run the step again, or go on with the next round.",
    )


def _another() -> SecureError:
    return SecureError(
        "secure.survivors",
        "The encrypted sum that was sent is not that of the listed survivors; nothing was revealed.",
        "Ask the coordinator what it added; this site decrypts nothing else in this round.",
    )


def _sealing(once: bytes, session: Session, listed: bytes, maker: str) -> AESGCM:
    """Under a key of 32 random bytes that seals one secret, once: the nonce may be constant."""
    return AESGCM(
        hkdf(once, "secret", {"context": context_of(session, listed), "maker": maker}, 32)
    )
