"""Whether a ledger holds: every entry, link, signature, reservation and total, from the first on."""

from __future__ import annotations

import sqlite3
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from folkmoot.privacy.ledger import totals as running
from folkmoot.privacy.ledger.entries import GENESIS, consistent, content_digest, link, signed
from folkmoot.privacy.ledger.store import broken

__all__ = ["ALL", "NEWEST", "verify"]

_ROWS = "SELECT seq, kind, release_id, attempt, content, time, state, chain, signature FROM entries"
ALL = f"{_ROWS} ORDER BY seq"
NEWEST = f"{_ROWS} ORDER BY seq DESC LIMIT ?"


def verify(db: sqlite3.Connection, site: str) -> int:
    """Check a whole ledger; O(entries), some 0.2 ms each (the signature is most of it).

    Returns
    -------
    int
        Number of entries.

    Raises
    ------
    PrivacyError
        ``privacy.ledger``, naming the first entry that does not hold.
    """
    names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    if not {"no_update", "no_delete"} <= {name for (name,) in db.execute(names)}:
        raise broken(site, "has lost the guards against changes")
    previous, time, seq, state = GENESIS, "", -1, ""
    key: Ed25519PublicKey | None = None
    totals: running.Totals = {}
    open_attempts: dict[str, tuple[int, bool]] = {}
    for row in db.execute(ALL):
        seq += 1
        number, kind, release_id, attempt, text, when, state, chain, signature = row
        if number != seq:
            raise broken(site, f"has a gap before entry {seq}")
        content = consistent(row, site)
        if content is None or chain != link(previous, content_digest(text), when, state):
            raise broken(site, f"was changed at entry {seq}")
        key = key or _key(content)
        if key is None or not signed(site, seq, chain, signature, key):
            raise broken(site, f"has no signature of the site at entry {seq}")
        if when < time:
            raise broken(site, f"goes back in time at entry {seq}")
        if kind == "rotate":
            key = _key(content)  # signed with the former key, it names the next
        elif kind != "open":
            if not _follows(open_attempts, kind, release_id, attempt):
                raise broken(site, f"has entry {seq} without the reservation it needs")
            running.add(totals, content, running.day_of(when))
        previous, time = chain, when
    if not running.state(totals) == running.state(running.read(db)) == state:
        raise broken(site, "has totals that are not those of its entries")
    return seq + 1


def _follows(
    attempts: dict[str, tuple[int, bool]], kind: str, release_id: str, attempt: int
) -> bool:
    """Attempts are numbered from 1; each ends at most once, by a commit or an abandon."""
    number, is_open = attempts.get(release_id, (0, False))
    if kind == "reserve":
        attempts[release_id] = (attempt, True)
        return attempt == number + 1 and not is_open
    attempts[release_id] = (number, False)
    return attempt == number and (is_open or kind == "commit")


def _key(content: dict[str, Any]) -> Ed25519PublicKey | None:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["key"]))
    except (KeyError, ValueError, TypeError):
        return None
