"""The file of a ledger: SQLite with durable writes, safe under threads, forks and processes.

WAL with ``synchronous=FULL`` is one fsync per transaction.  Beside the file lies ``ledger.head``,
number and chain value of the last entry: an older copy in the ledger's place does not hold that
entry, and takes no more.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from folkmoot.errors import FolkmootError, PrivacyError, TransientError

__all__ = ["LAST", "Store", "Tail", "broken"]

_SCHEMA = (
    """CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, release_id TEXT NOT NULL,
        attempt INTEGER NOT NULL, content TEXT NOT NULL, time TEXT NOT NULL,
        state TEXT NOT NULL, chain TEXT NOT NULL, signature TEXT NOT NULL)""",
    "CREATE INDEX by_release ON entries (release_id)",
    "CREATE INDEX rotations ON entries (seq) WHERE kind = 'rotate'",
    """CREATE TABLE totals (
        scope TEXT, lineage TEXT, name TEXT, event TEXT, count INTEGER NOT NULL,
        weight REAL NOT NULL, PRIMARY KEY (scope, lineage, name, event)) WITHOUT ROWID""",
    """CREATE TABLE plans (
        federation TEXT, run TEXT, lineage TEXT, planned TEXT NOT NULL,
        PRIMARY KEY (federation, run, lineage)) WITHOUT ROWID""",
    """CREATE TRIGGER no_update BEFORE UPDATE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER no_delete BEFORE DELETE ON entries
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
LAST = "SELECT seq, chain, time, state, signature FROM entries ORDER BY seq DESC LIMIT 1"
_NOTE = 80  # bytes of ledger.head: always written whole, in place, within one sector


@dataclass
class Tail:
    """The end of the chain, inside a transaction."""

    db: sqlite3.Connection
    seq: int
    chain: str
    time: str
    state: str


class Store:
    """Connection, transactions and the note of the last entry.

    Parameters
    ----------
    path : Path
        SQLite file on a local disk.
    site : str
        Whose it is, for errors.
    timeout : float
        Seconds to wait for another process.
    first : callable
        Writes the first entry into a new file; raises where it may not be made.
    opened : callable
        Checks a file that was just opened.
    """

    def __init__(
        self,
        path: Path,
        site: str,
        timeout: float,
        *,
        first: Callable[[sqlite3.Connection], None],
        opened: Callable[[sqlite3.Connection], None],
    ) -> None:
        self.path = path
        self.site = site
        self._timeout = timeout
        self._first, self._opened = first, opened
        self._lock = threading.RLock()
        self._pid = 0
        self._inode = 0
        self._note = -1
        self._inherited: list[sqlite3.Connection] = []
        self._connection: sqlite3.Connection

    @property
    def head_path(self) -> Path:
        """File that notes the last entry."""
        return self.path.with_suffix(".head")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process, its errors translated."""
        with self._lock, self._errors():
            yield self._open()

    @contextmanager
    def transaction(self) -> Iterator[Tail]:
        """Alone among all processes; durable at the end, undone by any exception.

        Yields the end of the chain; whoever appends moves it on.

        Raises
        ------
        PrivacyError
            ``privacy.ledger`` where the file does not hold its own last entry.
        """
        with self._lock, self._errors():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                last = db.execute(LAST).fetchone()
                self.check_note(db, last)
                tail = Tail(db, *last[:4])
                yield tail
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            # In place and without fsync: an older note names an entry that is there as well.
            os.pwrite(self._note, _note(tail.seq, tail.chain), 0)

    def check_note(self, db: sqlite3.Connection, last: tuple[int, str, *tuple[str, ...]]) -> None:
        """The ledger must hold the last entry that was noted; O(log entries).

        ``last`` is the row of its last entry, which is mostly the one.
        """
        text = os.pread(self._note, _NOTE, 0)
        try:
            number, chain = text.decode("ascii").split()
            seq = int(number)
        except ValueError:
            raise broken(self.site, "has lost the note of its last entry (ledger.head)") from None
        held: str | None = last[1]
        if seq != last[0]:
            row = db.execute("SELECT chain FROM entries WHERE seq = ?", (seq,)).fetchone()
            held = None if row is None else row[0]
        if held != chain:
            raise broken(self.site, "was rewound: it does not hold its own last entry")

    def close(self) -> None:
        """Close the files; they are opened again when next used."""
        with self._lock:
            if self._pid == os.getpid():
                self._connection.close()
                os.close(self._note)
            self._pid = 0

    # ------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """This process's connection: a connection must not be carried over a fork."""
        if self._inode and not self._in_place():
            raise broken(self.site, "was removed or replaced while it was in use")
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
        try:
            self._to_wal(db)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA recursive_triggers = ON")
            self._create(db)
            self._opened(db)
            note = self._open_note(db)
        except BaseException:
            db.close()
            raise
        self._connection, self._note, self._pid = db, note, os.getpid()
        self._inode = self.path.stat().st_ino
        return db

    def _to_wal(self, db: sqlite3.Connection) -> None:
        """Two that switch a new file together: SQLite refuses one at once, whatever its timeout."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not _busy(error) or time.monotonic() > until:
                    raise
            time.sleep(0.005)

    def _create(self, db: sqlite3.Connection) -> None:
        """Tables and first entry, together or not at all."""
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
                for statement in _SCHEMA:
                    db.execute(statement)
                self._first(db)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _open_note(self, db: sqlite3.Connection) -> int:
        """The note's file; made for a ledger that has its first entry alone."""
        try:
            return os.open(self.head_path, os.O_RDWR)
        except FileNotFoundError:
            pass
        db.execute("BEGIN IMMEDIATE")  # another process may be making its first release
        try:
            if self.head_path.exists():
                return os.open(self.head_path, os.O_RDWR)
            seq, chain, *_ = db.execute(LAST).fetchone()
            if seq > 0:
                raise broken(
                    self.site, "was rewound, or lost the note of its last entry (ledger.head)"
                )
            part = self.head_path.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb", opener=_private) as file:
                file.write(_note(seq, chain))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.head_path)
        finally:
            db.execute("ROLLBACK")
        return os.open(self.head_path, os.O_RDWR)

    def _in_place(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FolkmootError:
            raise
        except sqlite3.Error as error:
            if _busy(error):
                raise TransientError(
                    "transient.locked",
                    f"The ledger of site {self.site} is locked by another process.",
                    "Wait for the other process; nothing was released.",
                    site=self.site,
                ) from None
            if _code(error) == sqlite3.SQLITE_FULL:
                raise TransientError(
                    "transient.disk-full",
                    f"No space is left for the ledger of site {self.site}; nothing was released.",
                    "Free space at the site and start again.",
                    site=self.site,
                ) from None
            raise broken(self.site, f"cannot be used ({type(error).__name__})") from None
        except (ValueError, PermissionError, IsADirectoryError) as error:
            raise broken(self.site, f"cannot be read ({type(error).__name__})") from None


def _code(error: sqlite3.Error) -> int | None:
    """Primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _busy(error: sqlite3.Error) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def broken(site: str, what: str) -> PrivacyError:
    """The error of a ledger that does not hold."""
    return PrivacyError(
        "privacy.ledger",
        f"The privacy ledger of site {site} {what}.",
        "Nothing is released until the steward restores private/ (ledger.sqlite and ledger.head) "
        "from its newest backup that `folkmoot ledger verify` accepts.",
        site=site,
    )


def _note(seq: int, chain: str) -> bytes:
    return f"{seq:014d} {chain}\n".encode("ascii")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
