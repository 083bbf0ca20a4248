"""Set-up, once per run for all its sums: keys announced, secrets shared, shares delivered.

::

    site  ── key message ────▶ coordinator          one X25519 key per sum, one for sealing; signed
    sites ◀── key list ─────── coordinator          digests of all key messages
    site  ── share message ──▶ coordinator          a box for every neighbour; commitments; signed
    site  ◀── inbox, members ─ coordinator          the boxes for this site; who is in

Two tasks per site.  Every sum has a key and a self-mask's seed of its own, drawn independently, so
that opening those of one sum says nothing about another (``docs/secure-aggregation.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from folkmoot.errors import FolkmootError, SecureError
from folkmoot.identity import Roster, sign
from folkmoot.identity.agreement import agreement_key, agreement_public
from folkmoot.secure import shamir
from folkmoot.secure.boxes import OVERHEAD, Sealer, open_box, pair_secret, seal_box
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.lists import (
    context_of,
    key_error,
    member_list,
    neighbours,
    open_members,
    opened_message,
)
from folkmoot.secure.masks import commitment
from folkmoot.secure.session import WORDS, Announced, Dealt, Held, Keys, Session, Words
from folkmoot.wire import Artefact, decode, digest, encode

__all__ = [
    "deal",
    "holders_of",
    "key_message",
    "open_inbox",
    "open_keys",
    "open_shares",
    "sealer",
    "share_message",
]


def key_message(session: Session, site: str, keys: Keys, signing: Ed25519PrivateKey) -> bytes:
    """First message of a site; O(sums), 32 bytes a sum."""
    arrays = {
        "seal": _bytes([_public(keys.seal)]),
        "masks": _bytes([_public(key) for key in keys.masks]).reshape(-1, 32),
    }
    return sign(encode(Artefact("secure-keys", session.bound(site=site), arrays)), signing)


def open_keys(data: bytes, session: Session, site: str, roster: Roster) -> Announced:
    """Check a key message.

    Raises
    ------
    SecureError
        ``secure.key``, naming the site: not signed by it, or for another run.
    """
    artefact = opened_message(data, "secure-keys", session.bound(site=site), site, roster)
    try:
        seal, masks = artefact.arrays["seal"], artefact.arrays["masks"]
        fit = seal.shape == (1, 32) and masks.shape == (session.keyed, 32)
        if not fit or seal.dtype != np.uint8 or masks.dtype != np.uint8:
            raise ValueError
    except (KeyError, ValueError):
        raise key_error(site, "holds other keys than one for every sum") from None
    public = tuple(bytes(row) for row in masks)
    if len({bytes(seal[0]), *public}) != len(public) + 1:
        raise key_error(site, "uses one key twice")
    return Announced(bytes(seal[0]), public, agreement_public(roster.keys[site]))


def share_message(
    session: Session,
    site: str,
    keys: Keys,
    listed: bytes,
    announced: Mapping[str, Announced],
    signing: Ed25519PrivateKey,
) -> tuple[bytes, Words]:
    """Second message of a site; O(sums · neighbours · threshold).

    Parameters
    ----------
    listed : bytes
        The key list.
    announced : dict of str to Announced
        Opened key messages of the site's neighbours.

    Returns
    -------
    bytes, ndarray of uint32
        The message, and the site's own share of its own secrets, shape (sums, WORDS).
    """
    graph = neighbours(session, listed)
    near = graph.of(site)
    holders = holders_of(graph, site)
    points = range(1, len(holders) + 1)
    seeds = shamir.split(keys.seeds, points, graph.threshold)
    masks = shamir.split(keys.masks, points, graph.threshold)
    shares = dict(zip(holders, np.concatenate([seeds, masks], axis=2), strict=True))
    own = sealer(keys, signing)
    context = context_of(session, listed)
    boxes = [
        seal_box(shares[other].tobytes(), own, announced[other].sealing, context, site, other)
        for other in near
    ]
    hidden = [commitment(seed, session.binding(i), site) for i, seed in enumerate(keys.seeds)]
    arrays = {"boxes": _bytes(boxes), "commitments": _bytes(hidden)}
    meta = session.bound(site=site, keys=digest(listed))
    return sign(encode(Artefact("secure-shares", meta, arrays)), signing), shares[site]


def open_shares(
    data: bytes, session: Session, site: str, listed: bytes, graph: Neighbours, roster: Roster
) -> Dealt:
    """Check a share message, at the coordinator.

    Raises
    ------
    SecureError
        ``secure.key`` or ``secure.share``, naming the site.
    """
    expect = session.bound(site=site, keys=digest(listed))
    artefact = opened_message(data, "secure-shares", expect, site, roster)
    near = graph.of(site)
    length = 4 * WORDS * len(session.sums) + OVERHEAD
    shapes = {"boxes": (len(near), length), "commitments": (len(session.sums), 32)}
    for name, shape in shapes.items():
        array = artefact.arrays.get(name)
        if array is None or array.shape != shape or array.dtype != np.uint8:
            raise SecureError(
                "secure.share",
                f"Site {site} dealt other shares than one for every neighbour and sum.",
                "Check that the site runs the same version of folkmoot.",
                site=site,
            )
    boxes = {other: bytes(row) for other, row in zip(near, artefact.arrays["boxes"], strict=True)}
    return Dealt(boxes, tuple(bytes(row) for row in artefact.arrays["commitments"]))


def deal(
    session: Session, listed: bytes, graph: Neighbours, messages: Mapping[str, tuple[bytes, Dealt]]
) -> tuple[bytes, dict[str, bytes]]:
    """Member list and every member's inbox, made by the coordinator; O(members · neighbours).

    Parameters
    ----------
    messages : dict of str to (bytes, Dealt)
        Share messages that were opened, by site.

    Raises
    ------
    SecureError
        ``secure.threshold`` where too few sites dealt shares.
    """
    graph.check(messages)
    members = member_list(session, listed, {site: data for site, (data, _) in messages.items()})
    inboxes = {}
    for site in sorted(messages):
        near = [other for other in graph.of(site) if other in messages]
        boxes = _bytes([messages[other][1].boxes[site] for other in near])
        meta = session.bound(site=site, members=digest(members))
        inboxes[site] = encode(Artefact("secure-inbox", meta, {"boxes": boxes}))
    return members, inboxes


def sealer(keys: Keys, signing: Ed25519PrivateKey) -> Sealer:
    """What a site seals and opens boxes with: the run's key and its own, long-term one."""
    return Sealer(X25519PrivateKey.from_private_bytes(keys.seal), agreement_key(signing))


def open_inbox(
    data: bytes,
    session: Session,
    site: str,
    keys: Keys,
    own: Words,
    listed: bytes,
    members: bytes,
    graph: Neighbours,
    announced: Mapping[str, Announced],
    signing: Ed25519PrivateKey,
) -> Held:
    """Open the boxes for a site; O(sums · neighbours).

    A box that cannot be opened costs its share and is noted; the site goes on while it holds
    enough of them to help.

    Raises
    ------
    SecureError
        ``secure.share`` for an inbox of another run or site, or with too few good boxes.
    """
    sites = open_members(members, session, listed, graph)
    near = [other for other in graph.of(site) if other in sites]
    artefact = decode(data, kind="secure-inbox")
    length = 4 * WORDS * len(session.sums) + OVERHEAD
    boxes = artefact.arrays.get("boxes")
    fit = boxes is not None and boxes.shape == (len(near), length) and boxes.dtype == np.uint8
    if not fit or dict(artefact.meta) != session.bound(site=site, members=digest(members)):
        raise SecureError(
            "secure.share",
            f"The inbox of site {site} is that of another run, set-up or site.",
            "Find out who published it; the set-up must be done again in a new run.",
            site=site,
        )
    secret = sealer(keys, signing)
    context = context_of(session, listed)
    shares: dict[str, Words] = {site: own}
    faults: dict[str, FolkmootError] = {}
    pairs = {
        other: pair_secret(secret, announced[other].sealing, context, (site, other), other)
        for other in near
    }
    for other, box in zip(near, artefact.arrays["boxes"], strict=True):
        try:
            content = open_box(bytes(box), secret, announced[other].sealing, context, other, site)
        except SecureError as error:
            faults[other] = error
            continue
        shares[other] = np.frombuffer(content, np.uint32).reshape(len(session.sums), WORDS)
    if len(shares) < graph.threshold and faults:
        raise faults[min(faults)]
    return Held(shares, {other: error.code for other, error in faults.items()}, pairs)


def holders_of(graph: Neighbours, site: str) -> list[str]:
    """Who holds shares of a site's secrets, in the order of their points 1, 2, …"""
    return sorted((*graph.of(site), site))


def _public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _bytes(rows: list[bytes]) -> NDArray[np.uint8]:
    if not rows:
        return np.zeros((0, 0), np.uint8)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
