"""What a site keeps of a set-up: its keys, the list it dealt shares to, the shares it holds.

Every key message has a folder of its own, named by its digest: whoever makes the coordinator forget
a set-up gets a new one with new keys, never a second use of the old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import SecureError
from folkmoot.plan import RunContext, keys
from folkmoot.secure import lists, setup
from folkmoot.secure.run import session_of, set_up_of
from folkmoot.secure.session import WORDS, Announced, Held, Keys
from folkmoot.secure.state import SiteState
from folkmoot.wire import Artefact, decode, digest, encode

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["Memory", "memory", "new_state", "own_keys", "state_of"]


@dataclass(frozen=True)
class Memory:
    """A finished set-up, seen from one site.

    Parameters
    ----------
    keys : Keys
        The site's own.
    peers : dict of str to tuple of bytes
        Public keys of every sum, by neighbour among the members.
    held : Held
        Shares of members' secrets.
    """

    keys: Keys
    peers: Mapping[str, tuple[bytes, ...]]
    held: Held


def new_state(context: RunContext, home: SiteHome, message: bytes) -> SiteState:
    """Write-once entries of the set-up that begins with a key message."""
    folder = home.private / "secure" / context.federation
    return SiteState(folder, f"{context.run}/{digest(message)[:32]}", home.name)


def state_of(context: RunContext, home: SiteHome) -> SiteState:
    """Entries of the set-up whose key message of this site is published.

    Raises
    ------
    SecureError
        ``secure.key`` where the message is not one that this site made.
    """
    name = ("secure.state", home.name)
    if name not in context.cache:
        message = context.store.get(context.key(keys.secure("keys", home.name)))
        state = new_state(context, home, message)
        if state.find("keys") is None:
            raise SecureError(
                "secure.key",
                f"The key message published for site {home.name} is not one that it made.",
                "Find out who swapped it; no share was dealt and no mask made.",
                site=home.name,
            )
        context.cache[name] = state
    found: SiteState = context.cache[name]
    return found


def own_keys(state: SiteState) -> Keys:
    """The site's secrets of the run."""
    return Keys.from_bytes(state.find("keys") or b"")


def memory(context: RunContext, home: SiteHome) -> Memory:
    """The finished set-up; opens the site's inbox when asked for the first time.

    Raises
    ------
    SecureError
        ``secure.key`` or ``secure.share``, as :mod:`folkmoot.secure.setup` says.
    SecureError
        ``secure.threshold``.
    """
    name = ("secure.memory", home.name)
    if name not in context.cache:
        state = state_of(context, home)
        entry = decode(state.once("held", lambda: _open(context, home, state)), kind="secure-held")
        own = set_up_of(context)
        if entry.meta["members"] != digest(own.members_list):
            raise SecureError(
                "secure.key",
                f"Site {home.name} was given another list of members than in an earlier round.",
                "Find out who exchanged it; the site keeps to the first.",
                site=home.name,
            )
        arrays = entry.arrays
        shares = {k[2:]: v for k, v in arrays.items() if k.startswith("s/")}
        peers = {k[2:]: tuple(map(bytes, v)) for k, v in arrays.items() if k.startswith("p/")}
        pairs = {k[2:]: bytes(v) for k, v in arrays.items() if k.startswith("c/")}
        held = Held(shares, entry.meta["faults"], pairs)
        context.cache[name] = Memory(own_keys(state), peers, held)
    found: Memory = context.cache[name]
    return found


def _open(context: RunContext, home: SiteHome, state: SiteState) -> bytes:
    session, own = session_of(context), set_up_of(context)
    dealt = state.find("shares")
    if home.name not in own.members or dealt is None or state.find("list") != own.listed:
        raise SecureError(
            "secure.key",
            f"Site {home.name} dealt no shares in the set-up that was published.",
            "It takes no part in this run's sums; start a new run to have it in.",
            site=home.name,
        )
    words = np.frombuffer(dealt, np.uint32, len(session.sums) * WORDS)
    near = [other for other in own.graph.of(home.name) if other in own.members]
    announced = {other: announced_by(context, own.listed, other) for other in near}
    held = setup.open_inbox(
        context.store.get(context.key(keys.secure("inbox", home.name))),
        session,
        home.name,
        own_keys(state),
        words.reshape(-1, WORDS),
        own.listed,
        own.members_list,
        own.graph,
        announced,
        home.key(),
    )
    arrays: dict[str, NDArray[Any]] = {f"s/{who}": words for who, words in held.shares.items()}
    for other, key in held.pairs.items():
        arrays[f"c/{other}"] = np.frombuffer(key, np.uint8)
    for other, found in announced.items():
        arrays[f"p/{other}"] = np.frombuffer(b"".join(found.masks), np.uint8).reshape(-1, 32)
    meta = {"members": digest(own.members_list), "faults": dict(held.faults)}
    return encode(Artefact("secure-held", meta, arrays))


def announced_by(context: RunContext, listed: bytes, site: str) -> Announced:
    """A site's public keys, as listed and signed.

    Raises
    ------
    ProtocolError
        ``protocol.digest`` where it is not the listed message, ``secure.key`` where not signed.
    """
    session = session_of(context)
    data = context.store.get(
        context.key(keys.secure("keys", site)), lists.open_list(listed, session)[site]
    )
    return setup.open_keys(data, session, site, context.roster)
