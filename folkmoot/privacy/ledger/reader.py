"""What a ledger says: what was spent, how far a release came, what a plan would cost, its entries."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event
from folkmoot.privacy.ledger import audit, ceilings, clock
from folkmoot.privacy.ledger import totals as running
from folkmoot.privacy.ledger.ceilings import Outlook, Terms
from folkmoot.privacy.ledger.entries import Entry, State, Subject
from folkmoot.privacy.ledger.store import LAST, Store, broken

__all__ = ["OF_RELEASE", "Reader", "state_of"]

OF_RELEASE = "SELECT kind, attempt, content FROM entries WHERE release_id = ? ORDER BY seq"


class Reader:
    """The half of :class:`~folkmoot.privacy.ledger.book.Ledger` that writes nothing.

    Parameters
    ----------
    site : str
        Whose ledger it is.
    store : Store
        Its file.
    """

    def __init__(self, site: str, store: Store) -> None:
        self.site = site
        self._store = store

    def find(self, release_id: str) -> State:
        """State of a release; O(log entries)."""
        with self._store.reading() as db:
            return state_of(db, release_id)

    def spent(self, delta: float, lineage: str | None = None) -> tuple[float, str]:
        """Epsilon of everything ever reserved, at ``delta``, and the accounting method.

        ``lineage`` None takes the lineage that spent most: no person is in two of them.
        """
        with self._store.reading() as db:
            totals = self._totals(db)
        names = {key[1] for key in totals} if lineage is None else {lineage}
        found = [epsilon(running.counts(totals, "lineage", n, [""]), delta) for n in sorted(names)]
        return max(found, default=epsilon({}, delta), key=lambda pair: pair[0])

    def lineages(self) -> dict[str, dict[Event, int]]:
        """By lineage, the events that were charged; Gaussian ones folded into one."""
        with self._store.reading() as db:
            totals = self._totals(db)
        names = sorted({key[1] for key in totals})
        return {name: running.counts(totals, "lineage", name, [""]) for name in names}

    def forecast(self, subject: Subject, terms: Terms) -> list[Outlook]:
        """What ``terms.planned`` would cost under each of ``terms.ceilings``; writes nothing."""
        with self._store.reading() as db:
            totals = self._totals(db)
            day = running.day_of(clock.now_after(self._last(db)[2], self.site))
        planned = terms.planned
        return [ceilings.outlook(c, totals, planned, subject, day) for c in terms.ceilings]

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        return list(self)

    def __iter__(self) -> Iterator[Entry]:
        """Entries, oldest first, read as they are asked for."""
        with self._store.reading() as db:
            cursor = db.execute(audit.ALL)
        for row in cursor:
            yield Entry.of(row)

    def newest(self, count: int) -> list[Entry]:
        """The last ``count`` entries, newest first; O(count)."""
        with self._store.reading() as db:
            rows = db.execute(audit.NEWEST, (count,)).fetchall()
        return [Entry.of(row) for row in rows]

    def head(self) -> tuple[int, str]:
        """Number and chain value of the last entry."""
        with self._store.reading() as db:
            seq, chain, *_ = self._last(db)
        return seq, chain

    def holds(self, seq: int, chain: str) -> bool:
        """Whether the ledger has this entry; O(log entries)."""
        with self._store.reading() as db:
            row = db.execute("SELECT chain FROM entries WHERE seq = ?", (seq,)).fetchone()
        return row is not None and row[0] == chain

    def verify(self) -> int:
        """Check every entry, digest, link, signature, total and guard, and the last; O(entries).

        Returns
        -------
        int
            Number of entries.

        Raises
        ------
        PrivacyError
            ``privacy.ledger``, naming the first entry that does not hold, or for an older copy,
            which holds in itself but lacks the entry that was noted beside it as the last.
        """
        with self._store.reading() as db:
            count = audit.verify(db, self.site)
            self._store.check_note(db, self._last(db))
            return count

    def _totals(self, db: sqlite3.Connection, state: str | None = None) -> running.Totals:
        """The running totals, which must be those that the last entry was chained with."""
        totals = running.read(db)
        if running.state(totals) != (self._last(db)[3] if state is None else state):
            raise broken(self.site, "was changed: its totals are not those of its last entry")
        return totals

    @staticmethod
    def _last(db: sqlite3.Connection) -> tuple[int, str, str, str, str]:
        row: tuple[int, str, str, str, str] = db.execute(LAST).fetchone()
        return row


def state_of(db: sqlite3.Connection, release_id: str) -> State:
    """How far a release came; O(log entries)."""
    rows = db.execute(OF_RELEASE, (release_id,)).fetchall()
    artefact = None
    for kind, _, content in rows:
        if kind == "commit":
            artefact = str(json.loads(content)["artefact"])
    return State(sum(kind == "reserve" for kind, _, _ in rows), artefact)
