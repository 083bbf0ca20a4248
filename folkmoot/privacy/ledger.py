"""The site's privacy ledger: append-only, hash-chained, durable, and the site's alone.

One SQLite file (WAL, ``synchronous=FULL``: one fsync per entry) that lies outside git and DVC, so
that no checkout rewinds a spend.  A release with a cost has two entries, ``reserve`` before any
noise is drawn and ``commit`` once its bytes are safe; what is reserved counts as spent, whatever
happens next.  A release without a cost has the ``commit`` alone.

Beside it lies ``ledger.head``, number and chain value of the last entry: an older copy in the
ledger's place does not hold that entry, and takes no more.

Every entry has a content digest, which holds no time and no chain, so that the same federation on
another host has the same digests; and a chain value ``H(previous, content digest, time)``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folkmoot.errors import FolkmootError, PrivacyError, TransientError
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event, from_dict
from folkmoot.wire import canonical_json

__all__ = ["Ceiling", "Entry", "Ledger", "State", "Subject"]

_GENESIS = hashlib.sha256(b"folkmoot-ledger-1").hexdigest()
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS entries (
        seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, release_id TEXT NOT NULL,
        attempt INTEGER NOT NULL, charge TEXT NOT NULL, content TEXT NOT NULL,
        digest TEXT NOT NULL, time TEXT NOT NULL, chain TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS by_release ON entries (release_id)",
    "CREATE INDEX IF NOT EXISTS by_charge ON entries (charge) WHERE charge <> '[]'",
    """CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
_ALL = (
    "SELECT seq, kind, release_id, attempt, charge, content, digest, time, chain"
    " FROM entries ORDER BY seq"
)
_LAST = "SELECT seq, chain FROM entries ORDER BY seq DESC LIMIT 1"


@dataclass(frozen=True)
class Subject:
    """What a release answers, as it is written down."""

    release_id: str
    federation: str
    run: str
    round: int
    step: str
    dataset: str


@dataclass(frozen=True)
class Ceiling:
    """Most epsilon that a site's whole ledger may reach at ``delta``."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class State:
    """What the ledger knows of a release: attempts that were charged, digest once committed."""

    attempts: int
    artefact: str | None


@dataclass(frozen=True)
class Entry:
    """One entry; ``kind`` is ``open``, ``reserve`` or ``commit``."""

    seq: int
    kind: str
    release_id: str
    attempt: int
    content: dict[str, Any]
    digest: str
    time: str
    chain: str


class Ledger:
    """A site's ledger; safe under threads, forks and concurrent processes.

    Parameters
    ----------
    path : Path
        SQLite file, on a local disk; made where absent.
    site : str
        Site that it must belong to.
    timeout : float
        Seconds to wait for another process.

    Raises
    ------
    PrivacyError
        ``privacy.ledger`` where the file is another site's, or no ledger.
    TransientError
        Where it stays locked by another process, or the disk is full.
    """

    def __init__(self, path: Path, site: str, *, timeout: float = 30.0) -> None:
        self.path = Path(path)
        self.site = site
        self._timeout = timeout
        self._lock = threading.RLock()
        self._pid = 0
        self._inode = 0
        self._inherited: list[sqlite3.Connection] = []
        self._connection: sqlite3.Connection
        with self._reading():
            pass

    @property
    def head_path(self) -> Path:
        """File that notes the last entry."""
        return self.path.with_suffix(".head")

    def find(self, release_id: str) -> State:
        """State of a release; O(log entries)."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT kind, content FROM entries WHERE release_id = ? ORDER BY seq", (release_id,)
            ).fetchall()
        artefact = None
        for kind, content in rows:
            if kind == "commit":
                artefact = str(json.loads(content)["artefact"])
        return State(sum(kind == "reserve" for kind, _ in rows), artefact)

    def reserve(
        self, subject: Subject, charge: Sequence[Event], *, ceiling: Ceiling | None = None
    ) -> int:
        """Charge a release before anything is drawn; spent from here on, whatever happens.

        Returns
        -------
        int
            Number of the attempt, from 1.

        Raises
        ------
        PrivacyError
            ``privacy.ceiling``, with ceiling, spent and asked, before anything is written.
        """
        with self._transaction() as db:
            if ceiling is not None:
                self._check(db, charge, ceiling)
            (attempts,) = db.execute(
                "SELECT count(*) FROM entries WHERE release_id = ? AND kind = 'reserve'",
                (subject.release_id,),
            ).fetchone()
            values = [event.to_dict() for event in charge]
            self._append(db, "reserve", subject, attempts + 1, values, {})
        return int(attempts) + 1

    def commit(
        self, subject: Subject, artefact: str, *, attempt: int = 0, receipt: dict[str, Any]
    ) -> None:
        """Write down that the bytes of a release, with digest ``artefact``, are safe.

        Committing the same bytes again changes nothing.  ``attempt`` is 0 without a charge.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT content FROM entries WHERE release_id = ? AND kind = 'commit'"
                " ORDER BY seq DESC LIMIT 1",
                (subject.release_id,),
            ).fetchone()
            if row is None or json.loads(row[0])["artefact"] != artefact:
                more = {"artefact": artefact, "receipt": receipt}
                self._append(db, "commit", subject, attempt, [], more)

    def spent(self, delta: float) -> tuple[float, str]:
        """Epsilon of everything ever reserved here, at ``delta``, and the accounting method."""
        with self._reading() as db:
            return epsilon(_charged(db), delta)

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        with self._reading() as db:
            return [_entry(row) for row in db.execute(_ALL)]

    def head(self) -> tuple[int, str]:
        """Number and chain value of the last entry: what an anchor outside the site would keep."""
        with self._reading() as db:
            seq, chain = db.execute(_LAST).fetchone()
        return int(seq), str(chain)

    def verify(self) -> int:
        """Check every entry, digest, link and guard; O(entries).

        Returns
        -------
        int
            Number of entries.

        Raises
        ------
        PrivacyError
            ``privacy.ledger``, naming the first entry that does not hold.
        """
        with self._reading() as db:
            triggers = {
                name
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='trigger'")
            }
            if not {"no_update", "no_delete"} <= triggers:
                raise self._broken("has lost the guards against changes")
            previous, seq = _GENESIS, -1
            reserved: dict[str, int] = {}
            for row in db.execute(_ALL):
                seq += 1
                if row[0] != seq:
                    raise self._broken(f"has a gap before entry {seq}")
                if not self._holds(row, previous):
                    raise self._broken(f"was changed at entry {seq}")
                if row[1] == "reserve":
                    reserved[row[2]] = reserved.get(row[2], 0) + 1
                if (row[1] == "reserve" and row[3] != reserved[row[2]]) or (
                    row[1] == "commit" and row[3] > reserved.get(row[2], 0)
                ):
                    raise self._broken(f"has entry {seq} without the reservation it needs")
                previous = row[8]
        return seq + 1

    def close(self) -> None:
        """Close the file; the ledger opens it again when it is next used."""
        with self._lock:
            if self._pid == os.getpid():
                self._connection.close()
            self._pid = 0

    # ------------------------------------------------------------------------------------------

    def _holds(self, row: tuple[Any, ...], previous: str) -> bool:
        """Whether a row is what its content, digest and chain say."""
        seq, kind, release_id, attempt, charge, text, digest, when, chain = row
        try:
            content = json.loads(text)
            same = bool(
                content["kind"] == kind
                and content["release_id"] == release_id
                and content["attempt"] == attempt
                and canonical_json(content["charge"]).decode() == charge
                and content["site"] == self.site
                and (kind == "open") == (seq == 0)
            )
        except (ValueError, KeyError, TypeError):
            return False
        content_digest = hashlib.sha256(text.encode()).hexdigest()
        return same and content_digest == digest and chain == _link(previous, digest, when)

    def _check(self, db: sqlite3.Connection, charge: Sequence[Event], ceiling: Ceiling) -> None:
        events = _charged(db)
        before, _ = epsilon(events, ceiling.delta)
        for event in charge:
            events[event] = events.get(event, 0) + 1
        after, _ = epsilon(events, ceiling.delta)
        if after > ceiling.epsilon:
            raise PrivacyError(
                "privacy.ceiling",
                f"The release would bring site {self.site} to epsilon {after:.4g} at delta "
                f"{ceiling.delta:g}: its ceiling is {ceiling.epsilon:g}, {before:.4g} is spent, "
                f"{after - before:.4g} is asked. Nothing was drawn.",
                "Plan fewer rounds or more noise, or let the site's steward raise epsilon_ceiling.",
                site=self.site,
            )

    def _append(
        self,
        db: sqlite3.Connection,
        kind: str,
        subject: Subject | None,
        attempt: int,
        charge: list[dict[str, Any]],
        more: dict[str, Any],
    ) -> None:
        row = db.execute(_LAST).fetchone()
        seq, previous = (row[0] + 1, row[1]) if row else (0, _GENESIS)
        about = {} if subject is None else vars(subject)
        content = {"release_id": "", **about, **more, "kind": kind, "site": self.site}
        text = canonical_json({**content, "attempt": attempt, "charge": charge}).decode()
        digest = hashlib.sha256(text.encode()).hexdigest()
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        charged, chain = canonical_json(charge).decode(), _link(previous, digest, when)
        db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (seq, kind, content["release_id"], attempt, charged, text, digest, when, chain),
        )

    def _open(self) -> sqlite3.Connection:
        """This process's connection: a connection must not be carried over a fork."""
        if self._inode and not self._in_place():
            raise self._broken("was removed or replaced while it was in use")
        if self._pid == os.getpid():
            return self._connection
        if self._pid:
            # SQLite must not close in a child what its parent opened: keep it, unused.
            self._inherited.append(self._connection)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA recursive_triggers = ON")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                db.execute(statement)
            if not db.execute("SELECT 1 FROM entries").fetchone():
                self._append(db, "open", None, 0, [], {})
            db.execute("COMMIT")
        row = db.execute("SELECT content FROM entries WHERE seq = 0").fetchone()
        if row is None or json.loads(row[0]).get("site") != self.site:
            db.close()
            raise self._broken(f"is not the ledger of site {self.site}")
        self._connection, self._pid = db, os.getpid()
        self._inode = self.path.stat().st_ino
        return db

    def _in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            yield self._open()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                self._check_head(db)
                yield db
                head = db.execute(_LAST).fetchone()
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._write_head(*head)

    def _check_head(self, db: sqlite3.Connection) -> None:
        """The ledger must go on from the last entry that was noted; O(1)."""
        try:
            seq, chain = self.head_path.read_text(encoding="ascii").split()
            row = db.execute("SELECT chain FROM entries WHERE seq = ?", (int(seq),)).fetchone()
        except (FileNotFoundError, ValueError):
            return  # never noted, or torn by a power cut: entries are durable, the note is not
        if row is None or row[0] != chain:
            raise self._broken("was rewound: it does not hold its own last entry")

    def _write_head(self, seq: int, chain: str) -> None:
        """Note the last entry.  No fsync: an older note names an entry that is there as well."""
        part = self.head_path.with_name(f".{self.head_path.name}.{os.getpid()}.part")
        try:
            with open(part, "w", encoding="ascii", opener=_private) as file:
                file.write(f"{seq} {chain}\n")
            os.replace(part, self.head_path)
        except OSError:  # the entry itself is safe; the next one is noted again
            part.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FolkmootError:
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise TransientError(
                    "transient.locked",
                    f"The ledger of site {self.site} is locked by another process.",
                    "Wait for the other process; nothing was released.",
                    site=self.site,
                ) from None
            if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
                raise TransientError(
                    "transient.disk-full",
                    f"No space is left for the ledger of site {self.site}; nothing was released.",
                    "Free space at the site and start again.",
                    site=self.site,
                ) from None
            raise self._broken(f"cannot be used ({type(error).__name__})") from None
        except (ValueError, PermissionError) as error:
            raise self._broken(f"cannot be read ({type(error).__name__})") from None

    def _broken(self, what: str) -> PrivacyError:
        return PrivacyError(
            "privacy.ledger",
            f"The privacy ledger of site {self.site} {what}.",
            "Nothing is released until the steward restores private/ledger.sqlite from a backup "
            "that `folkmoot ledger verify` accepts.",
            site=self.site,
        )


def _charged(db: sqlite3.Connection) -> dict[Event, int]:
    """Every charged event with its count; O(entries with a cost), over a covering index."""
    counts: dict[Event, int] = {}
    for charge, n in db.execute(
        "SELECT charge, count(*) FROM entries WHERE charge <> '[]' GROUP BY charge"
    ):
        for values in json.loads(charge):
            event = from_dict(values)
            counts[event] = counts.get(event, 0) + n
    return counts


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _link(previous: str, digest: str, when: str) -> str:
    return hashlib.sha256(f"{previous}\0{digest}\0{when}".encode()).hexdigest()


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, kind, release_id, attempt, _, text, digest, when, chain = row
    return Entry(seq, kind, release_id, attempt, json.loads(text), digest, when, chain)
