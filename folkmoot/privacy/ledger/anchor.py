"""Anchors: a site's last entry, countersigned by the coordinator and returned with every round.

::

    site         heads/<step>      its last entry, as the ledger signed it
    coordinator  round-RRR         the newest heads it knows of all sites, signed with its own key
    site         next round        its ledger must hold that entry, or nothing is released

Whoever restores an older copy of a site's folder, note and all, cannot restore the anchor; and of
two copies that go on side by side, the second one does not hold the other's entries.  Anchors lie
beside the runs, at ``<federation>/anchors/<run>/``: they hold times (in the chain), runs do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError
from folkmoot.identity import sign, verify
from folkmoot.privacy.events import EXACT
from folkmoot.privacy.ledger.entries import Head, signed
from folkmoot.wire import canonical_json

__all__ = [
    "Anchors",
    "anchors_key",
    "countersign",
    "head_key",
    "open_anchors",
    "open_head",
    "shown",
    "to_bytes",
]

#: Number and chain value of the newest known entry, by site.
Anchors = dict[str, tuple[int, str]]


def head_key(federation: str, run: str, step: str) -> str:
    """Key of the exchange store of a site's head after a step."""
    return f"{federation}/anchors/{run}/heads/{step}"


def anchors_key(federation: str, run: str, round: int) -> str:
    """Key of the exchange store of the coordinator's anchors after a round; 0 is the opening."""
    return f"{federation}/anchors/{run}/round-{round:03d}"


def shown(round: int, mechanism: str) -> bool:
    """Whether sites show their heads in a round: in each that spends budget, else in the first alone."""
    return round <= 1 or mechanism not in EXACT


def to_bytes(site: str, head: Head) -> bytes:
    """A head as it travels; its signature is the ledger's own."""
    return canonical_json({"site": site, **vars(head)})


def open_head(data: bytes, site: str, key: Ed25519PublicKey) -> Head:
    """Inverse of :func:`to_bytes`.

    Raises
    ------
    ProtocolError
        ``protocol.signature`` where it is not the site's.
    """
    try:
        values = json.loads(data)
        head = Head(int(values["seq"]), str(values["chain"]), str(values["signature"]))
        true = values["site"] == site and signed(site, head.seq, head.chain, head.signature, key)
    except (ValueError, KeyError, TypeError, RecursionError):
        true = False
    if not true:
        raise ProtocolError(
            "protocol.signature",
            f"The head of site {site}'s ledger is damaged, or not signed by the site.",
            "Treat it as forged; compare the roster's key with the site's public.toml.",
            site=site,
        )
    return head


def countersign(
    anchors: Mapping[str, tuple[int, str]],
    *,
    federation: str,
    run: str,
    round: int,
    key: Ed25519PrivateKey,
) -> bytes:
    """The coordinator's statement of the newest entries that it has seen."""
    values = {
        "federation": federation,
        "run": run,
        "round": round,
        "anchors": {site: list(anchors[site]) for site in sorted(anchors)},
    }
    return sign(canonical_json(values), key)


def open_anchors(data: bytes, *, federation: str, run: str, round: int, key: str) -> Anchors:
    """Anchors of a round.

    Parameters
    ----------
    data : bytes
        From :func:`countersign`.
    federation, run, round
        What they must be of.
    key : str
        The coordinator's public key (hex), from ``run.json``.

    Raises
    ------
    ProtocolError
        ``protocol.signature`` or ``protocol.mismatch``.
    """
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError:
        raise _foreign(round) from None
    body = verify(data, public, what=f"The anchors of round {round}")
    try:
        values = json.loads(body)
        bound = (values["federation"], values["run"], values["round"])
        found = {str(s): (int(seq), str(chain)) for s, (seq, chain) in values["anchors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _foreign(round) from None
    if bound != (federation, run, round):
        raise _foreign(round)
    return found


def _foreign(round: int) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The anchors of round {round} are not those of this run and coordinator.",
        "Find out who published them; nothing was released.",
    )
