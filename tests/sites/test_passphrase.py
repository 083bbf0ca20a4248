"""A signing key behind a passphrase, which is never in a file of the site."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
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


def test_a_site_may_be_made_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key never lies open; without a passphrase no site is made."""
    from typer.testing import CliRunner

    from folkmoot.cli.app import app

    for name in ("FOLKMOOT_PASSPHRASE", "FOLKMOOT_PASSPHRASE_COMMAND", "FOLKMOOT_SITE_HOME"):
        monkeypatch.delenv(name, raising=False)
    command = ["site", "init", "site-a", "--locked", "--workspace", str(tmp_path)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code
    assert not (tmp_path / "sites" / "site-a" / "site.toml").exists()
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE", "right horse")
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert is_encrypted(tmp_path / "sites" / "site-a" / "private" / "signing.key")


SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.mark.skipif(
    not SOFTHSM.exists() or not shutil.which("pkcs11-tool"),
    reason="SoftHSM2 and OpenSC (Debian: softhsm2, opensc) are not installed",
)
def test_a_token_opens_the_key(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passphrase is encrypted under an RSA key that cannot leave its PKCS #11 token."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("PIN", "987654")
    tool = ["pkcs11-tool", "--module", str(SOFTHSM), "--token-label", "test"]
    login = ["--login", "--pin", "env:PIN", "--id", "01"]
    made, fresh = tmp_path / "token.der", ["--so-pin", "1234", "--pin", "987654"]
    for command in (
        ["softhsm2-util", "--init-token", "--free", "--label", "test", *fresh],
        [*tool, *login, "--keypairgen", "--key-type", "rsa:2048", "--usage-decrypt"],
        [*tool, "--read-object", "--type", "pubkey", "--id", "01", "-o", str(made)],
    ):
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
    public = load_der_public_key(made.read_bytes())
    assert isinstance(public, rsa.RSAPublicKey)
    scheme = padding.OAEP(mgf=padding.MGF1(SHA1()), algorithm=SHA1(), label=None)
    (tmp_path / "sealed").write_bytes(public.encrypt(os.urandom(32).hex().encode(), scheme))
    how = ["--decrypt", "--mechanism", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA-1"]
    command = [*tool, *login, *how, "--input-file", str(tmp_path / "sealed")]
    monkeypatch.setenv("FOLKMOOT_PASSPHRASE_COMMAND", " ".join(command))
    key = new_key(path, encrypted=True)
    keys._key.cache_clear()
    assert public_text(load_key(path)) == public_text(key)
    keys._key.cache_clear()
    monkeypatch.setenv("PIN", "000000")
    with pytest.raises(ConfigError, match="command in FOLKMOOT_PASSPHRASE_COMMAND fails"):
        load_key(path)
