"""What a site remembers of its sums is written once."""

from __future__ import annotations

from folkmoot.secure.state import SiteState


def test_what_is_written_once_stays(tmp_path):
    state = SiteState(tmp_path, "run", "a")
    assert state.once("keys", lambda: b"first") == b"first"
    assert SiteState(tmp_path, "run", "a").once("keys", lambda: b"second") == b"first"
    assert SiteState(tmp_path, "run-2", "a").once("keys", lambda: b"second") == b"second"
    assert [p.name for p in (tmp_path / "runs" / "run").iterdir()] == ["keys"]
    assert (tmp_path / "runs" / "run" / "keys").stat().st_mode & 0o077 == 0


def test_of_two_processes_the_first_to_write_wins(tmp_path):
    slow, fast = SiteState(tmp_path, "run", "a"), SiteState(tmp_path, "run", "a")

    def meanwhile():
        assert fast.once("keys", lambda: b"fast") == b"fast"
        return b"slow"

    assert slow.once("keys", meanwhile) == b"fast"


def test_a_torn_journal_line_was_never_acted_on(tmp_path):
    state = SiteState(tmp_path, "run", "a")
    assert state.decide("upload-0000", "one") == "one"
    journal = tmp_path / "runs" / "run" / "journal"
    journal.write_bytes(journal.read_bytes() + b'["upload-0001", "tw')
    again = SiteState(tmp_path, "run", "a")
    assert again.decide("upload-0001", "three") == "three"
    assert again.decide("upload-0000", "other") == "one"
    assert again.decide("upload-0001", "other") == "three"
    assert journal.stat().st_mode & 0o077 == 0
