"""The ledger itself: reserve and commit; what it says is in ``reader``.

A release with a cost has two entries, ``reserve`` before any noise is drawn and ``commit`` once its
bytes are safe; what is reserved counts as spent, whatever happens next.  An attempt that came to
nothing gets an ``abandon`` when the next one begins: it stays spent.  A release without a cost has
the ``commit`` alone.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import PrivacyError
from folkmoot.identity import public_text
from folkmoot.privacy.accountant import count
from folkmoot.privacy.events import Event
from folkmoot.privacy.ledger import ceilings, clock, entries
from folkmoot.privacy.ledger import totals as running
from folkmoot.privacy.ledger.ceilings import Terms
from folkmoot.privacy.ledger.entries import GENESIS, Head, State, Subject
from folkmoot.privacy.ledger.plans import hold
from folkmoot.privacy.ledger.reader import OF_RELEASE, Reader, state_of
from folkmoot.privacy.ledger.store import Store, Tail, broken

__all__ = ["Ledger"]

_INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FREE = Terms()


class Ledger(Reader):
    """A site's ledger; safe under threads, forks and concurrent processes.

    Parameters
    ----------
    path : Path
        SQLite file, on a local disk; made where absent.
    site : str
        Site that it must belong to.
    key : Ed25519PrivateKey, optional
        The site's, to sign entries with; without it the ledger can only be read.
    timeout : float
        Seconds to wait for another process.

    Raises
    ------
    PrivacyError
        ``privacy.ledger`` where the file is another site's, signed by another key, or no ledger.
    TransientError
        Where it stays locked by another process, or the disk is full.
    """

    def __init__(
        self,
        path: Path,
        site: str,
        key: Ed25519PrivateKey | None = None,
        *,
        timeout: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self._key = key
        self._public = None if key is None else public_text(key)
        self._newest: Head | None = None
        self._writing: Head | None = None
        store = Store(self.path, site, timeout, first=self._first, opened=self._own)
        super().__init__(site, store)
        with self._store.reading():
            pass

    @property
    def head_path(self) -> Path:
        """File that notes the last entry."""
        return self._store.head_path

    # Before a release --------------------------------------------------------------------------

    def admit(self, subject: Subject, terms: Terms) -> State:
        """Whether a release may be begun at all, and what is known of it; writes nothing.

        Raises
        ------
        PrivacyError
            ``privacy.clock``; ``privacy.differencing``; ``privacy.ceiling`` where the whole plan
            would not fit; ``privacy.ledger`` where the ledger was rewound or its totals edited.
        """
        with self._store.reading() as db:
            row = self._last(db)
            self._store.check_note(db, row)
            when, state = clock.now_after(row[2], self.site), row[3]
            if terms.exact or terms.planned:
                hold(db, self.site, subject, terms, self._totals(db, state), when)
            return state_of(db, subject.release_id)

    def reserve(self, subject: Subject, charge: Sequence[Event], *, terms: Terms = _FREE) -> int:
        """Charge a release before anything is drawn; spent from here on, whatever happens.

        Returns
        -------
        int
            Number of the attempt, from 1.

        Raises
        ------
        PrivacyError
            ``privacy.ceiling`` (with ceiling, spent and asked), ``privacy.differencing`` or
            ``privacy.clock``, before anything is written.
        """
        with self._store.transaction() as tail:
            db, when = tail.db, clock.now_after(tail.time, self.site)
            totals = self._totals(db, tail.state)
            hold(db, self.site, subject, terms, totals, when, note=True)
            asked = count(charge)
            day = running.day_of(when)
            ceilings.refuse_over(
                terms.ceilings, totals, asked, subject, day, site=self.site, what="release"
            )
            rows = db.execute(OF_RELEASE, (subject.release_id,)).fetchall()
            attempts: int = sum(kind == "reserve" for kind, _, _ in rows)
            if attempts and (rows[-1][0], rows[-1][1]) == ("reserve", attempts):
                self._append(tail, "abandon", subject, attempts, (), {}, when)
            values = [event.to_dict() for event in charge]
            self._append(tail, "reserve", subject, attempts + 1, values, {}, when, totals)
        self._newest = self._writing
        return attempts + 1

    # After it ----------------------------------------------------------------------------------

    def commit(
        self,
        subject: Subject,
        artefact: str,
        *,
        attempt: int = 0,
        receipt: Mapping[str, Any],
        terms: Terms = _FREE,
    ) -> None:
        """Write down that the bytes of a release, with digest ``artefact``, are safe.

        Committing the same bytes again changes nothing.  ``attempt`` is 0 without a charge.

        Raises
        ------
        PrivacyError
            ``privacy.differencing`` where another process used another version meanwhile.
        """
        with self._store.transaction() as tail:
            db = tail.db
            rows = db.execute(OF_RELEASE, (subject.release_id,)).fetchall()
            commits = [json.loads(content) for kind, _, content in rows if kind == "commit"]
            if not commits or commits[-1]["artefact"] != artefact:
                when = clock.now_after(tail.time, self.site)
                totals = None
                if attempt == 0:  # else the reservation was held, and entered the version
                    totals = self._totals(db, tail.state)
                    hold(db, self.site, subject, terms, totals, when, note=True)
                more = {"artefact": artefact, "receipt": dict(receipt)}
                self._append(tail, "commit", subject, attempt, (), more, when, totals)
            else:
                self._writing = None
        self._newest = self._writing

    def rotate(self, new: Ed25519PrivateKey) -> None:
        """Let ``new`` sign every later entry; an entry signed with the present key says so.

        Nothing happens where it signs already.
        """
        if public_text(new) == self._public:
            return
        with self._store.transaction() as tail:
            when = clock.now_after(tail.time, self.site)
            self._append(tail, "rotate", None, 0, (), {"key": public_text(new)}, when)
        self._key, self._public = new, public_text(new)

    def signed_head(self) -> Head:
        """The last entry as the site signed it: what the coordinator keeps of the ledger.

        Where this process has written entries, the last of them: other processes show theirs.
        """
        if self._newest is not None:
            return self._newest
        with self._store.reading() as db:
            seq, chain, _, _, signature = self._last(db)
        return Head(seq, chain, signature)

    def close(self) -> None:
        """Close the file; the ledger opens it again when it is next used."""
        self._store.close()

    def _append(
        self,
        tail: Tail,
        kind: str,
        subject: Subject | None,
        attempt: int,
        charge: Sequence[Mapping[str, Any]],
        more: Mapping[str, Any],
        when: str,
        totals: running.Totals | None = None,
    ) -> None:
        """Write an entry behind ``tail``; into ``totals`` too where it may change them."""
        if self._key is None:
            raise broken(self.site, "needs the site's signing key to take an entry")
        about = {**({} if subject is None else vars(subject)), **more}
        if totals is not None:
            content = {**about, "charge": charge}
            changed = running.add(totals, content, running.day_of(when))
            if changed:
                running.write(tail.db, changed)
                tail.state = running.state(totals)
        row = entries.make(
            kind,
            about,
            attempt,
            charge,
            previous=(tail.seq, tail.chain),
            when=when,
            state=tail.state,
            site=self.site,
            key=self._key,
        )
        tail.db.execute(_INSERT, row)
        tail.seq, tail.chain, tail.time = row[0], row[7], when
        self._writing = Head(row[0], row[7], row[8])

    def _first(self, db: sqlite3.Connection) -> None:
        """The entry that says whose ledger it is."""
        when = clock.now_after(None, self.site)
        tail = Tail(db, -1, GENESIS, when, "")
        self._append(tail, "open", None, 0, (), {"key": self._public}, when)

    def _own(self, db: sqlite3.Connection) -> None:
        """Another site's ledger, another key's or one of another format is refused."""
        columns = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
        if "signature" not in columns:
            raise PrivacyError(
                "privacy.ledger",
                f"The privacy ledger of site {self.site} was made by an earlier version of folkmoot, "
                "without signatures.",
                "Move it away with private/releases and export it with that version; for simulated "
                "sites delete the workspace.",
                site=self.site,
            )
        row = db.execute("SELECT content FROM entries WHERE seq = 0").fetchone()
        content = {} if row is None else json.loads(row[0])
        if content.get("site") != self.site:
            raise broken(self.site, f"is not the ledger of site {self.site}")
        if self._public is not None and self._public != (_newest_key(db) or content.get("key")):
            raise broken(self.site, "was signed with another key than private/signing.key")


def _newest_key(db: sqlite3.Connection) -> str | None:
    """Key of the last rotation, or None; O(1) by an index of its own."""
    query = "SELECT content FROM entries WHERE kind = 'rotate' ORDER BY seq DESC LIMIT 1"
    row = db.execute(query).fetchone()
    return None if row is None else json.loads(row[0]).get("key")
