"""The lists of a set-up's messages, and how each message on them is known for its site's.

A site's message is signed by it and bound to the run.  The coordinator's lists name messages by
their digests, so that all sites see the same ones: the key list says who announced keys, draws the
graph of neighbours and is what boxes are bound to; the member list says who is in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.identity import Roster, verify
from folkmoot.secure.graph import Neighbours, complete, sparse
from folkmoot.secure.session import Session
from folkmoot.wire import Artefact, canonical_json, decode, digest

__all__ = [
    "context_of",
    "key_error",
    "key_list",
    "member_list",
    "neighbours",
    "open_list",
    "open_listing",
    "open_members",
    "opened_message",
]


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


def member_list(session: Session, listed: bytes, messages: Mapping[str, bytes]) -> bytes:
    """Canonical JSON that names every second message of the set-up by its digest."""
    sites = {site: digest(data) for site, data in sorted(messages.items())}
    return canonical_json(session.bound(keys=digest(listed), sites=sites))


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
        raise key_error("coordinator", "names members that announced no keys")
    graph.check(sites)
    return frozenset(sites)


def open_listing(data: bytes) -> dict[str, str]:
    """Digests of the messages in a list that :func:`open_members` let pass, by site."""
    return {str(site): str(found) for site, found in json.loads(data)["sites"].items()}


def context_of(session: Session, listed: bytes) -> str:
    """What boxes are bound to: run, plan, sums and the set-up's key list, as one digest."""
    return digest(canonical_json(session.bound(keys=digest(listed))))


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
        raise key_error(site, "was damaged, or not signed by it") from None
    for name, value in expect.items():
        if artefact.meta.get(name) != value:
            raise key_error(site, f"is for another {name} than expected")
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


def key_error(site: str, what: str) -> SecureError:
    """``secure.key``: what is wrong with a message of a site."""
    return SecureError(
        "secure.key",
        f"The key message of site {site} {what}.",
        "No mask was made with it. Find out who sent or swapped it, and start a new run.",
        site=site,
    )
