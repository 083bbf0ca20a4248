"""A signing key behind a passphrase, which is never in a file of the site."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from folkmoot.errors import ConfigError
from folkmoot.identity import keys, load_key, new_key, public_text
from folkmoot.identity.keys import is_encrypted, lock_key


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FOLKMOOT_PASSPHRASE", "FOLKMOOT_PASSPHRASE_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "signing.key"


def test_a_locked_key_opens_with_its_passphrase_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(path)
    raw = path.read_bytes()
    with pytest.raises(ConfigError, match="needs a passphrase"):
        lock_key(path)
    assert path.read_bytes() == raw, "nothing is lost"
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE", "right horse")
    lock_key(path)
    assert is_encrypted(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert raw not in path.read_bytes()
    assert public_text(load_key(path)) == public_text(key)
    keys._key.cache_clear()
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE", "wrong horse")
    with pytest.raises(ConfigError, match="does not open") as caught:
        load_key(path)
    assert caught.value.code == "config.passphrase"
    assert "horse" not in str(caught.value)


def test_a_command_may_print_the_passphrase(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE_COMMAND", f"{sys.executable} -c \"print('secret')\"")
    key = new_key(path, encrypted=True)
    keys._key.cache_clear()
    assert public_text(load_key(path)) == public_text(key)
    keys._key.cache_clear()
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE_COMMAND", f"{sys.executable} -c 'raise SystemExit(3)'")
    with pytest.raises(ConfigError, match="command in FOLKMOOT_PASSPHRASE_COMMAND fails"):
        load_key(path)
