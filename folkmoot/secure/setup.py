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

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from folkmoot.errors import FolkmootError, ProtocolError, SecureError
from folkmoot.identity import Roster, sign, verify
from folkmoot.identity.agreement import agreement_key, agreement_public
from folkmoot.secure import shamir
from folkmoot.secure.boxes import OVERHEAD, Sealer, open_box, pair_secret, seal_box
from folkmoot.secure.graph import Neighbours, complete, sparse
from folkmoot.secure.masks import SEED_BYTES, Binding, commitment
from folkmoot.wire import Artefact, canonical_json, decode, digest, encode

__all__ = [
    "Announced",
    "Dealt",
    "Held",
    "Keys",
    "Session",
    "context_of",
    "deal",
    "key_list",
    "key_message",
    "member_list",
    "open_inbox",
    "open_keys",
    "open_listing",
    "open_members",
    "open_shares",
    "opened_message",
    "sealer",
    "share_message",
]

#: Numbers of 32 bits in a share of a seed, and of a seed and a key together.
SEED_WORDS = shamir.limbs(SEED_BYTES)
WORDS = SEED_WORDS + shamir.limbs(32)
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Session:
    """What all parties of a run know of its secure sums.

    Parameters
    ----------
    federation, run : str
        Names.
    plan : str
        Digest of ``run.json``: params, contract and roster.
    sums : tuple of (int, str)
        Round and step of every sum that the run may take, in order.
    threshold : int, optional
        Of the complete graph; ``floor(2n/3) + 1`` when None.
    rates : (float, float), optional
        Largest shares of colluding and of failing sites: makes the graph sparse.
    encrypted : bool
        Whether sums are encrypted instead of masked: then no site has keys of single sums.
    """

    federation: str
    run: str
    plan: str
    sums: tuple[tuple[int, str], ...]
    threshold: int | None = None
    rates: tuple[float, float] | None = None
    encrypted: bool = False

    @property
    def keyed(self) -> int:
        """Sums that each site has keys of its own for."""
        return 0 if self.encrypted else len(self.sums)

    def binding(self, index: int) -> Binding:
        """Of the sum at a place of ``sums``."""
        return Binding(self.federation, self.run, *self.sums[index])

    def bound(self, **more: object) -> dict[str, Any]:
        """What every message of the set-up states about itself."""
        return {
            "federation": self.federation,
            "run": self.run,
            "plan": self.plan,
            "sums": [list(one) for one in self.sums],
            **({"encrypted": True} if self.encrypted else {}),
            **more,
        }


@dataclass(frozen=True)
class Keys:
    """A site's secrets of one run: never leave it but as shares.

    Parameters
    ----------
    seal : bytes
        X25519 private key that boxes are sealed with.
    masks : tuple of bytes
        X25519 private key of every sum.
    seeds : tuple of bytes
        Seed of the self-mask of every sum, 16 bytes each.
    """

    seal: bytes
    masks: tuple[bytes, ...]
    seeds: tuple[bytes, ...]

    @staticmethod
    def draw(count: int) -> Keys:
        """New secrets for ``count`` sums, from the operating system."""
        return Keys(
            os.urandom(32),
            tuple(os.urandom(32) for _ in range(count)),
            tuple(os.urandom(SEED_BYTES) for _ in range(count)),
        )

    def to_bytes(self) -> bytes:
        """For the site's private folder."""
        return b"".join((self.seal, *self.masks, *self.seeds))

    @staticmethod
    def from_bytes(data: bytes) -> Keys:
        """Inverse of :meth:`to_bytes`."""
        count, rest = divmod(len(data) - 32, 32 + SEED_BYTES)
        if rest or count < 0:
            raise ValueError("not the keys of a run")
        end = 32 + 32 * count
        masks = tuple(data[i : i + 32] for i in range(32, end, 32))
        seeds = tuple(data[i : i + SEED_BYTES] for i in range(end, len(data), SEED_BYTES))
        return Keys(data[:32], masks, seeds)


@dataclass(frozen=True)
class Announced:
    """A site's public keys: of one run, and the long-term one that the roster lists."""

    seal: bytes
    masks: tuple[bytes, ...]
    static: bytes

    @property
    def sealing(self) -> bytes:
        """What boxes for the site are sealed with."""
        return self.seal + self.static


@dataclass(frozen=True)
class Dealt:
    """A site's share message, opened by the coordinator.

    Parameters
    ----------
    boxes : dict of str to bytes
        By receiver.
    commitments : tuple of bytes
        To the self-mask's seed of every sum.
    """

    boxes: Mapping[str, bytes]
    commitments: tuple[bytes, ...]


@dataclass(frozen=True)
class Held:
    """Shares that a site holds of others' secrets and its own.

    Parameters
    ----------
    shares : dict of str to ndarray of uint32, shape (sums, WORDS)
        By dealer; a dealer whose box could not be opened is absent.
    faults : dict of str to str
        Code of the error of each box that could not be opened, by dealer.
    pairs : dict of str to bytes
        Keys (32 bytes) with each neighbour alone, which tie answers together.
    """

    shares: Mapping[str, Words]
    faults: Mapping[str, str]
    pairs: Mapping[str, bytes]


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
        raise _key(site, "holds other keys than one for every sum") from None
    public = tuple(bytes(row) for row in masks)
    if len({bytes(seal[0]), *public}) != len(public) + 1:
        raise _key(site, "uses one key twice")
    return Announced(bytes(seal[0]), public, agreement_public(roster.keys[site]))


def key_list(session: Session, messages: Mapping[str, bytes]) -> bytes:
    """Canonical JSON that names every key message by its digest; made by the coordinator."""
    sites = {site: digest(data) for site, data in sorted(messages.items())}
    return canonical_json(session.bound(sites=sites))


def open_list(data: bytes, session: Session) -> dict[str, str]:
    """Digests of the key messages, by site.

    Raises
    ------
    SecureError
        ``secure.key`` for a list of another run.
    """
    return _listing(data, session.bound(), "The key list")


def neighbours(session: Session, listed: bytes) -> Neighbours:
    """The graph of the run: a function of the key list, the same for everybody."""
    sites = open_list(listed, session)
    if session.rates is None:
        return complete(sites, session.threshold)
    colluding, failing = session.rates
    return sparse(sites, digest(listed), colluding=colluding, failing=failing)


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


def member_list(session: Session, listed: bytes, messages: Mapping[str, bytes]) -> bytes:
    """Canonical JSON that names every second message of the set-up by its digest."""
    sites = {site: digest(data) for site, data in sorted(messages.items())}
    return canonical_json(session.bound(keys=digest(listed), sites=sites))


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


def open_members(data: bytes, session: Session, listed: bytes, graph: Neighbours) -> frozenset[str]:
    """Who takes part in the run's sums.

    Raises
    ------
    SecureError
        ``secure.key`` for a list of another run or set-up.
    SecureError
        ``secure.threshold`` where they could not open a sum.
    """
    sites = _listing(data, session.bound(keys=digest(listed)), "The member list")
    if not sites.keys() <= open_list(listed, session).keys():
        raise _key("coordinator", "names members that announced no keys")
    graph.check(sites)
    return frozenset(sites)


def open_listing(data: bytes) -> dict[str, str]:
    """Digests of the messages in a list that :func:`open_members` let pass, by site."""
    return {str(site): str(found) for site, found in json.loads(data)["sites"].items()}


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


def context_of(session: Session, listed: bytes) -> str:
    """What boxes are bound to: run, plan, sums and the set-up's key list, as one digest."""
    return digest(canonical_json(session.bound(keys=digest(listed))))


def _public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _bytes(rows: list[bytes]) -> NDArray[np.uint8]:
    if not rows:
        return np.zeros((0, 0), np.uint8)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)


def opened_message(
    data: bytes, kind: str, expect: Mapping[str, Any], site: str, roster: Roster
) -> Artefact:
    """A message of the set-up, where it is signed by its site and bound to what is expected.

    Raises
    ------
    SecureError
        ``secure.key``, naming the site.
    """
    try:
        artefact = decode(verify(data, roster.key(site), what=f"A {kind} message"), kind=kind)
    except ProtocolError as error:
        if error.code == "protocol.unknown-site":
            raise
        raise _key(site, "was damaged, or not signed by it") from None
    for name, value in expect.items():
        if artefact.meta.get(name) != value:
            raise _key(site, f"is for another {name} than expected")
    return artefact


def _listing(data: bytes, expect: Mapping[str, Any], what: str) -> dict[str, str]:
    try:
        values = json.loads(data)
        sites = {str(site): str(found) for site, found in values.pop("sites").items()}
        fit = values == expect and bool(sites)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fit = False
    if not fit:
        raise SecureError(
            "secure.key",
            f"{what} is damaged, or that of another run, plan or set-up.",
            "Find out who published it; no key of this site was used with it.",
        )
    return sites


def _key(site: str, what: str) -> SecureError:
    return SecureError(
        "secure.key",
        f"The key message of site {site} {what}.",
        "No mask was made with it. Find out who sent or swapped it, and start a new run.",
        site=site,
    )
