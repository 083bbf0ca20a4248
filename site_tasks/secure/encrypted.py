"""A site's side of encrypted sums: a key pair for all, its contribution encrypted, the sum opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import SecureError
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import ckks, encrypted, lists, setup
from folkmoot.secure.boxes import pair_secret
from folkmoot.secure.run import index_of, session_of, set_up_of, stage_of
from folkmoot.secure.together import seal_together
from folkmoot.wire import Artefact, decode, digest, encode
from site_tasks.secure.memory import announced_by, own_keys, state_of

if TYPE_CHECKING:
    from folkmoot.secure.masks import Binding
    from site_tasks.home import SiteHome

__all__ = ["answer", "encrypt", "offer"]


@dataclass(frozen=True)
class Ring:
    """A finished set-up, seen from one site.

    Parameters
    ----------
    key : SharedKey
        The key pair of all sites.
    pairs : dict of str to bytes
        Keys with each other member alone.
    """

    key: encrypted.SharedKey
    pairs: Mapping[str, bytes]


def offer(context: RunContext, home: SiteHome, listed: bytes) -> bytes:
    """The site's second message of the set-up: a key pair where it is one of those that make one."""
    session, state = session_of(context), state_of(context, home)
    others = sorted(lists.open_list(listed, session).keys() - {home.name})

    def make() -> bytes:
        announced = {other: announced_by(context, listed, other) for other in others}
        message, secret = encrypted.offer_message(
            session,
            home.name,
            own_keys(state),
            listed,
            announced,
            context.params.federation.required,
            home.key(),
        )
        arrays = {"message": _bytes(message), "secret": _bytes(secret)}
        return encode(Artefact("secure-dealt", {}, arrays))

    return _made(state.once("shares", make))["message"].tobytes()


def encrypt(
    context: RunContext, home: SiteHome, binding: Binding, vector: NDArray[np.uint64]
) -> ckks.Cipher:
    """A contribution under the run's public key, with its tag."""
    return encrypted.encrypted(
        _ring(context, home).key, binding, home.name, vector, len(context.params.federation.members)
    )


def answer(
    step: Step,
    context: RunContext,
    home: SiteHome,
    binding: Binding,
    listed: bytes,
    survivors: Sequence[str],
) -> bytes:
    """The sum of the survivors' contributions, decrypted; O(numbers).

    Raises
    ------
    SecureError
        ``secure.survivors`` for what is another sum, ``secure.again`` for a second attempt at one;
        ``secure.range`` for what is none.
    """
    known, index = _ring(context, home), index_of(step, context)
    total = context.store.get(context.key(keys.total(stage_of(step))))
    which = digest(total)
    if state_of(context, home).decide(f"total-{index:04d}", which) != which:
        raise SecureError(
            "secure.again",
            f"Site {home.name} was sent a second encrypted sum for one round.",
            "Find out who made it; the first alone is looked at.",
            site=home.name,
        )
    sites = len(context.params.federation.members)
    content = encrypted.decrypted(known.key, binding, total, survivors, sites)
    graph = set_up_of(context).graph
    return seal_together(
        content, binding, home.name, listed, survivors, graph, known.pairs, home.key()
    )


def _ring(context: RunContext, home: SiteHome) -> Ring:
    """The key pair of the run's first member; opened once, kept in the site's private folder.

    Raises
    ------
    SecureError
        ``secure.key`` or ``secure.share``.
    """
    name = ("secure.ring", home.name)
    if name not in context.cache:
        state = state_of(context, home)
        entry = decode(state.once("held", lambda: _open(context, home)), kind="secure-held")
        if entry.meta["members"] != digest(set_up_of(context).members_list):
            raise SecureError(
                "secure.key",
                f"Site {home.name} was given another list of members than in an earlier round.",
                "Find out who exchanged it; the site keeps to the first.",
                site=home.name,
            )
        arrays = entry.arrays
        pairs = {k[2:]: bytes(v) for k, v in arrays.items() if k.startswith("c/")}
        halves = arrays["public"].tobytes(), arrays["secret"].tobytes()
        context.cache[name] = Ring(encrypted.SharedKey(entry.meta["maker"], *halves), pairs)
    found: Ring = context.cache[name]
    return found


def _open(context: RunContext, home: SiteHome) -> bytes:
    session, own, state = session_of(context), set_up_of(context), state_of(context, home)
    dealt = state.find("shares")
    if home.name not in own.members or dealt is None or state.find("list") != own.listed:
        raise SecureError(
            "secure.key",
            f"Site {home.name} took no part in the set-up that was published.",
            "It takes no part in this run's sums; start a new run to have it in.",
            site=home.name,
        )
    sealing, maker = setup.sealer(own_keys(state), home.key()), min(own.members)
    signed = lists.open_listing(own.members_list)
    others = sorted(own.members - {home.name})
    announced = {other: announced_by(context, own.listed, other) for other in others}
    data = context.store.get(context.key(keys.secure("inbox", home.name)), signed[maker])
    required = context.params.federation.required
    made = encrypted.open_offer(data, session, maker, own.listed, required, context.roster)
    if made is None:
        raise SecureError(
            "secure.key",
            f"Site {maker}, whose key pair the members would use, makes none.",
            "Fewer sites are members than the plan's quorum; start a new run.",
            site=maker,
        )
    if maker == home.name:
        secret = _made(dealt)["secret"].tobytes()
    else:
        public = announced[maker].sealing
        secret = encrypted.take_key(session, home.name, sealing, own.listed, maker, made, public)
    arrays = {"public": _bytes(made.public), "secret": _bytes(secret)}
    bound = lists.context_of(session, own.listed)
    for other, found in announced.items():
        key = pair_secret(sealing, found.sealing, bound, (home.name, other), other)
        arrays[f"c/{other}"] = _bytes(key)
    meta = {"members": digest(own.members_list), "maker": maker}
    return encode(Artefact("secure-held", meta, arrays))


def _made(dealt: bytes) -> Mapping[str, NDArray[np.uint8]]:
    return decode(dealt, kind="secure-dealt").arrays


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
