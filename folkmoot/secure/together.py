"""Answers that open together or not at all: a site's answer is readable only beside those to its list.

A site seals its answer under a fresh key, shares that key by Shamir among the survivors, and covers
the share for site j with a pad that i and j alone know, made *of the survivor list*.  In its own
answer site j gives the pad, made of the list that j was sent.  The pads cancel where both were sent
the same list, and are unrelated where not: so an answer opens only where ``threshold`` sites, the
answering one among them, answered the very same list.  With more than half of the sites in every
threshold no two lists can both be opened, and no exchange is needed to compare them (the consistency
check of Bonawitz et al. 2017, `doi:10.1145/3133956.3133982`, without its round).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.identity import Roster, sign, verify
from folkmoot.secure import shamir
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.masks import Binding, hkdf
from folkmoot.secure.setup import holders_of
from folkmoot.wire import Artefact, canonical_json, decode, digest, encode

__all__ = ["Sealed", "open_sealed", "open_together", "seal_together"]

#: Bytes of the key that an answer is sealed under, and words of a share of it.
_KEY = 16
_WORDS = shamir.limbs(_KEY)
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Sealed:
    """One site's answer as it was sent.

    Parameters
    ----------
    box : bytes
        The answer, under a key of its own.
    covered : dict of str to ndarray of uint32, shape (5,)
        Shares of that key by holder, covered; the site's own is in the clear.
    pads : dict of str to ndarray of uint32, shape (5,)
        By the other site whose answer they uncover.
    """

    box: bytes
    covered: Mapping[str, Words]
    pads: Mapping[str, Words]


def seal_together(
    content: bytes,
    binding: Binding,
    site: str,
    listed: bytes,
    survivors: Collection[str],
    graph: Neighbours,
    pair_keys: Mapping[str, bytes],
    signing: Ed25519PrivateKey,
) -> bytes:
    """A signed answer that opens only beside those of ``graph.threshold`` sites to the same list.

    O(bytes + neighbours · threshold).

    Parameters
    ----------
    content : bytes
        What the site answers.
    listed : bytes
        The list of survivors that it was sent.
    survivors : collection of str
        Of the list.
    pair_keys : mapping of str to bytes
        Keys that the site has with each of its neighbours alone, of 32 bytes.

    Returns
    -------
    bytes
        Signed artefact with ``box`` (uint8), ``covered`` and ``pads`` (survivors near, 5).
    """
    which = digest(listed)
    near = _near(graph, site, survivors)
    points = {holder: i for i, holder in enumerate(holders_of(graph, site), 1)}
    secret = os.urandom(_KEY)
    shares = shamir.split([secret], [points[n] for n in near], graph.threshold)[:, 0]
    covered, pads = np.zeros_like(shares), np.zeros_like(shares)
    for row, other in enumerate(near):
        if other == site:
            covered[row] = shares[row]
            continue
        key = pair_keys[other]
        covered[row] = shares[row] ^ _pad(key, binding, which, site, other)
        pads[row] = _pad(key, binding, which, other, site)
    key, nonce, bound = _sealing(secret, binding, site, which)
    arrays: dict[str, NDArray[Any]] = {
        "box": np.frombuffer(AESGCM(key).encrypt(nonce, content, bound), np.uint8),
        "covered": covered,
        "pads": pads,
    }
    meta = {**binding.to_dict(), "site": site, "list": which}
    return sign(encode(Artefact("secure-answer", meta, arrays)), signing)


def open_sealed(
    data: bytes,
    binding: Binding,
    site: str,
    listed: str,
    survivors: Collection[str],
    graph: Neighbours,
    roster: Roster,
) -> Sealed:
    """Check who sent an answer and to what; ``listed`` is the digest of the survivor list.

    Raises
    ------
    ProtocolError
        ``protocol.signature``, ``protocol.mismatch`` or ``protocol.format``, naming the site.
    """
    what = f"The answer of site {site}"
    artefact = decode(verify(data, roster.key(site), what=what), kind="secure-answer")
    near, arrays = _near(graph, site, survivors), artefact.arrays
    if dict(artefact.meta) != {**binding.to_dict(), "site": site, "list": listed}:
        raise _unfit("protocol.mismatch", f"{what} is for another sum or list of survivors", site)
    box, covered, pads = (arrays.get(name) for name in ("box", "covered", "pads"))
    shape = (len(near), _WORDS)
    if (
        box is None
        or covered is None
        or pads is None
        or box.ndim != 1
        or box.dtype != np.uint8
        or not all(a.shape == shape and a.dtype == np.uint32 for a in (covered, pads))
    ):
        raise _unfit("protocol.format", f"{what} does not hold what an answer holds", site)
    rows = range(len(near))
    return Sealed(
        box.tobytes(),
        {near[i]: covered[i] for i in rows},
        {near[i]: pads[i] for i in rows if near[i] != site},
    )


def open_together(
    sealed: Mapping[str, Sealed], binding: Binding, listed: str, graph: Neighbours
) -> dict[str, bytes]:
    """Contents of the answers that enough others bear out; O(answers · neighbours).

    An answer beside which fewer than the threshold answered the same list stays closed and is left
    out, as is one whose shares are false in more ways than other subsets of them can make good.
    """
    found = {}
    for site in sorted(sealed):
        points = {holder: i for i, holder in enumerate(holders_of(graph, site), 1)}
        shares: dict[str, Words] = {}
        for other, words in sealed[site].covered.items():
            if other == site:
                shares[other] = words
            elif other in sealed and site in sealed[other].pads:
                shares[other] = words ^ sealed[other].pads[site]
        content = _content(site, shares, points, sealed[site].box, binding, listed, graph)
        if content is not None:
            found[site] = content
    return found


def _content(
    site: str,
    shares: Mapping[str, Words],
    points: Mapping[str, int],
    box: bytes,
    binding: Binding,
    listed: str,
    graph: Neighbours,
) -> bytes | None:
    have = sorted(shares)
    if len(have) < graph.threshold:
        return None
    for first in range(len(have) if len(have) > graph.threshold else 1):
        chosen = sorted((have[first:] + have[:first])[: graph.threshold])
        stack = np.stack([shares[holder] for holder in chosen])[:, None, :]
        if (stack >= shamir.PRIME).any():
            continue
        secret = shamir.combine(stack, [points[holder] for holder in chosen], _KEY)
        if secret is None:
            continue
        key, nonce, bound = _sealing(secret[0], binding, site, listed)
        try:
            return AESGCM(key).decrypt(nonce, box, bound)
        except InvalidTag:
            continue
    return None


def _near(graph: Neighbours, site: str, survivors: Collection[str]) -> list[str]:
    return [holder for holder in holders_of(graph, site) if holder in survivors]


def _pad(key: bytes, binding: Binding, listed: str, owner: str, holder: str) -> Words:
    """What covers the share of ``owner``'s answer that ``holder`` uncovers, both sent ``listed``."""
    values = {**binding.to_dict(), "list": listed, "owner": owner, "holder": holder}
    made = hmac.digest(key, b"folkmoot-secure-1 pad\0" + canonical_json(values), "sha256")
    return np.frombuffer(made, np.uint32)[:_WORDS]


def _sealing(secret: bytes, binding: Binding, site: str, listed: str) -> tuple[bytes, bytes, bytes]:
    values: dict[str, Any] = {**binding.to_dict(), "site": site, "list": listed}
    derived = hkdf(secret, "answer", values, 28)
    return derived[:16], derived[16:], canonical_json(values)


def _unfit(code: str, message: str, site: str) -> ProtocolError:
    return ProtocolError(
        code,
        f"{message}.",
        "Treat it as replayed or damaged; the sum is opened without it where enough others answer.",
        site=site,
    )
