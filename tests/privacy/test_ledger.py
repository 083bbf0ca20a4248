"""The ledger: append-only, tamper-evident, shared by processes, and never forgetful."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import PrivacyError, TransientError
from folkmoot.privacy.events import Event, Gaussian
from folkmoot.privacy.ledger import Ceiling, Ledger, Subject, Terms

KEY = Ed25519PrivateKey.generate()
RECEIPT = {"mechanism": "gaussian", "unaccounted": {}}


def subject(number: int) -> Subject:
    return Subject(f"{number:064x}", "demo", "r", number, f"round-{number:03d}/train/a", "f" * 64)


def filled(path: Path, count: int = 5) -> Ledger:
    ledger = Ledger(path, "site-a", KEY)
    for number in range(count):
        attempt = ledger.reserve(subject(number), [Gaussian(4.0)])
        ledger.commit(subject(number), "d" * 64, attempt=attempt, receipt=RECEIPT)
    return ledger


def tamper(path: Path, statement: str) -> None:
    """What somebody with the file in hand could do."""
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_update")
        db.execute("DROP TRIGGER no_delete")
        db.execute(statement)
        db.execute(
            "CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, ''); END"
        )
        db.execute(
            "CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, ''); END"
        )
    db.close()


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite")
    assert ledger.verify() == 11
    assert ledger.find(subject(3).release_id).artefact == "d" * 64
    assert ledger.find("0" * 60 + "beef").attempts == 0
    assert [entry.kind for entry in ledger.entries()][:3] == ["open", "reserve", "commit"]
    again = Ledger(tmp_path / "ledger.sqlite", "site-a", KEY)
    assert again.head() == ledger.head()
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o077 == 0


def test_reserved_counts_as_spent_and_every_attempt_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "site-a", KEY)
    assert ledger.spent(1e-5) == (0.0, "none")
    assert ledger.reserve(subject(1), [Gaussian(4.0)]) == 1
    once, _ = ledger.spent(1e-5)
    assert ledger.reserve(subject(1), [Gaussian(4.0)]) == 2
    assert ledger.spent(1e-5)[0] > once > 0


def test_committing_twice_is_committing_once(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite", 1)
    before = ledger.head()
    ledger.commit(subject(0), "d" * 64, attempt=1, receipt=RECEIPT)
    assert ledger.head() == before


def test_the_ceiling_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "site-a", KEY)
    ceiling = Ceiling(2.0, 1e-5)  # one Gaussian of 4 costs 0.94, four 1.99
    for number in range(4):
        ledger.reserve(subject(number), [Gaussian(4.0)], terms=Terms((ceiling,)))
    before = ledger.head()
    with pytest.raises(PrivacyError) as caught:
        ledger.reserve(subject(4), [Gaussian(4.0)], terms=Terms((ceiling,)))
    assert caught.value.code == "privacy.ceiling"
    for figure in ("ceiling is 2,", "1.993 is spent", "asked"):
        assert figure in caught.value.message
    assert ledger.head() == before


@pytest.mark.parametrize("statement", ["UPDATE entries SET time = ''", "DELETE FROM entries"])
def test_sqlite_itself_refuses_changes(tmp_path: Path, statement: str) -> None:
    filled(tmp_path / "ledger.sqlite").close()
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET state = '' WHERE seq = 3",
        "UPDATE entries SET signature = replace(signature, '0', '1') WHERE seq = 3",
        "UPDATE totals SET weight = 0.01",
        "DELETE FROM totals WHERE scope = 'lineage'",
        "INSERT INTO totals VALUES ('version', 'main', 'x', '', 1, 0.0)",
        "UPDATE entries SET content = replace(content, '4.0', '9.0') WHERE seq = 3",
        "UPDATE entries SET time = '2000-01-01T00:00:00Z' WHERE seq = 3",
        "UPDATE entries SET attempt = 7 WHERE seq = 3",
        "UPDATE entries SET kind = 'commit' WHERE seq = 3",
        "DELETE FROM entries WHERE seq = 4",
        "DELETE FROM entries WHERE seq = 0",
        "UPDATE entries SET seq = 100 WHERE seq = 10",
    ],
)
def test_edits_are_found(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.sqlite"
    filled(path).close()
    tamper(path, statement)
    with pytest.raises(PrivacyError) as caught:
        Ledger(path, "site-a", KEY).verify()
    assert caught.value.code == "privacy.ledger"


def test_lost_guards_are_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    filled(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_delete")
    db.close()
    with pytest.raises(PrivacyError, match="guards"):
        Ledger(path, "site-a", KEY).verify()


def test_another_sites_ledger_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.sqlite").close()
    with pytest.raises(PrivacyError, match="not the ledger of site site-b"):
        Ledger(tmp_path / "ledger.sqlite", "site-b", KEY)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(PrivacyError) as caught:
        Ledger(path, "site-a", KEY)
    assert caught.value.code == "privacy.ledger"


def test_a_ledger_that_is_swapped_while_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = filled(path, 1)
    path.unlink()
    with pytest.raises(PrivacyError, match="removed or replaced"):
        ledger.reserve(subject(9), [Gaussian(4.0)])


def test_a_locked_ledger_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    filled(path, 1).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientError) as caught:
        Ledger(path, "site-a", KEY, timeout=0.05).reserve(subject(9), [Gaussian(4.0)])
    assert caught.value.code == "transient.locked"
    other.close()
    assert Ledger(path, "site-a", KEY).reserve(subject(9), [Gaussian(4.0)]) == 1


def at(monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    """Set the site's clock."""
    monkeypatch.setattr("folkmoot.privacy.ledger.clock.time.time", lambda: moment)


def test_content_digests_agree_between_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal releases at another time have equal content digests, and another chain."""
    one = filled(tmp_path / "one.sqlite")
    at(monkeypatch, 4e9)
    two = filled(tmp_path / "two.sqlite")
    assert [e.digest for e in one.entries()] == [e.digest for e in two.entries()]
    assert one.head() != two.head()
    assert two.verify() == 11


def test_a_clock_that_was_set_back_stops_every_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, 4e9)
    ledger = filled(tmp_path / "ledger.sqlite")
    before = ledger.head()
    at(monkeypatch, 4e9 - 61)
    for act in (
        lambda: ledger.admit(subject(9), Terms()),
        lambda: ledger.reserve(subject(9), [Gaussian(4.0)]),
        lambda: ledger.commit(subject(9), "e" * 64, receipt=RECEIPT),
    ):
        with pytest.raises(PrivacyError) as caught:
            act()
        assert caught.value.code == "privacy.clock"
    assert ledger.head() == before
    at(monkeypatch, 4e9 - 30)  # as time synchronisation may do: the order of entries stays
    ledger.reserve(subject(9), [Gaussian(4.0)])
    assert ledger.verify() == 12
    assert ledger.entries()[-1].time == ledger.entries()[-2].time


def _spend(path: Path, start: int, barrier: object) -> None:
    ledger = Ledger(path, "site-a", KEY)
    barrier.wait()  # type: ignore[attr-defined]
    charge: list[Event] = [Gaussian(4.0)]
    for number in range(start, start + 10):
        try:
            ledger.reserve(subject(number), charge, terms=Terms((Ceiling(5.0, 1e-5),)))
        except PrivacyError:
            break


def test_processes_share_one_ledger_and_one_ceiling(tmp_path: Path) -> None:
    """40 reservations from four processes where 20 fit: 20 are made, none is lost."""
    path = tmp_path / "ledger.sqlite"
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    workers = [fork.Process(target=_spend, args=(path, 10 * i, barrier)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    ledger = Ledger(path, "site-a", KEY)
    reserved = ledger.verify() - 1
    spent, _ = ledger.spent(1e-5)
    assert spent <= 5.0
    fits = Ledger(tmp_path / "alone.sqlite", "site-a", KEY)
    for number in range(reserved):
        fits.reserve(subject(number), [Gaussian(4.0)], terms=Terms((Ceiling(5.0, 1e-5),)))
    with pytest.raises(PrivacyError):
        fits.reserve(subject(99), [Gaussian(4.0)], terms=Terms((Ceiling(5.0, 1e-5),)))


def test_a_fork_opens_the_ledger_for_itself(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite", 1)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=ledger.reserve, args=(subject(7), [Gaussian(4.0)]))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert ledger.reserve(subject(7), [Gaussian(4.0)]) == 2
    kinds = [entry.kind for entry in ledger.entries()][3:]
    assert kinds == ["reserve", "abandon", "reserve"]
    assert ledger.verify() == 6


def _open_at_once(path: Path, barrier: Any, heads: Any) -> None:
    barrier.wait()
    try:
        heads.put(Ledger(path, "site-a", KEY).head())
    except BaseException as error:
        heads.put(repr(error))


def test_processes_that_make_it_together_find_one_ledger(tmp_path: Path) -> None:
    """SQLite refuses a second switch to WAL at once, however long it may wait."""
    fork = multiprocessing.get_context("fork")
    for number in range(25):
        barrier, heads = fork.Barrier(4), fork.Queue()
        path = tmp_path / str(number) / "ledger.sqlite"
        workers = [
            fork.Process(target=_open_at_once, args=(path, barrier, heads)) for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        found = [heads.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        assert found == [Ledger(path, "site-a", KEY).head()] * 4
