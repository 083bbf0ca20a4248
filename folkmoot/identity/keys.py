"""A party's own signing key (Ed25519, RFC 8032); its private half never leaves the machine.

The file holds the raw key (mode 0600), or an encrypted one (PKCS #8, RFC 5958, in PEM) where a
passphrase protects it.  The passphrase is in ``FOLKMOOT_PASSPHRASE``, or printed by the command in
``FOLKMOOT_PASSPHRASE_COMMAND`` (a password manager, a token's tool): never in a file of the site.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from folkmoot.errors import ConfigError

__all__ = ["is_encrypted", "load_key", "lock_key", "new_key", "public_bytes", "public_text"]

_PEM = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_TEXT, _COMMAND = "FOLKMOOT_PASSPHRASE", "FOLKMOOT_PASSPHRASE_COMMAND"


def new_key(path: Path, *, encrypted: bool = False) -> Ed25519PrivateKey:
    """Make a private key at ``path`` (file mode 0600); never overwrites one.

    Raises
    ------
    ConfigError
        ``config.passphrase`` where the key is to be encrypted and no passphrase is given.
    """
    key = Ed25519PrivateKey.generate()
    data = _encrypted(key, path) if encrypted else key.private_bytes_raw()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, data)
    return key


def load_key(path: Path | str) -> Ed25519PrivateKey:
    """Read a private key.

    Raises
    ------
    ConfigError
        Where there is none, it is damaged, or its passphrase is missing or wrong.
    """
    try:
        stat = os.stat(path)
        return _key(str(path), stat.st_ino, stat.st_mtime_ns)
    except (OSError, ValueError):
        raise ConfigError(
            "config.missing-file",
            f"{path} does not hold this site's signing key.",
            "Restore it from the site's backup, or make a new site with `folkmoot site init`.",
        ) from None


def lock_key(path: Path) -> None:
    """Encrypt a key file with the passphrase, whole or not at all; an encrypted one gets it anew."""
    data = _encrypted(load_key(path), path)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    _write(part, data)
    os.replace(part, path)


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase."""
    return path.read_bytes().startswith(_PEM)


def public_text(key: Ed25519PrivateKey) -> str:
    """Public half as 64 hex characters."""
    return public_bytes(key).hex()


@lru_cache(maxsize=64)
def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Public half, 32 bytes; worked out once of a key that signs again and again."""
    return key.public_key().public_bytes_raw()


@lru_cache(maxsize=64)
def _key(path: str, inode: int, changed: int) -> Ed25519PrivateKey:
    """The key as the file held it then: every release signs, and deriving costs as much."""
    data = Path(path).read_bytes()
    if not data.startswith(_PEM):
        return Ed25519PrivateKey.from_private_bytes(data)
    try:
        key = load_pem_private_key(data, _passphrase(path))
    except ValueError:
        raise _locked(path, "does not open with the passphrase that was given") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def _encrypted(key: Ed25519PrivateKey, path: Path) -> bytes:
    cipher = BestAvailableEncryption(_passphrase(str(path)))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)


def _passphrase(path: str) -> bytes:
    text, command = os.environ.get(_TEXT, ""), os.environ.get(_COMMAND, "")
    if not text and command:
        try:
            # The steward's own command, from the steward's own environment.
            done = subprocess.run(
                shlex.split(command), stdout=subprocess.PIPE, check=True, timeout=60
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            raise _locked(
                path, f"needs a passphrase, and the command in {_COMMAND} fails"
            ) from None
        text = done.stdout.decode(errors="surrogateescape").rstrip("\r\n")
    if not text:
        raise _locked(path, "needs a passphrase")
    return text.encode(errors="surrogateescape")


def _locked(path: str, what: str) -> ConfigError:
    return ConfigError(
        "config.passphrase",
        f"{path} {what}.",
        f"Set {_TEXT}, or {_COMMAND} to a command that prints it, where the site's steps run.",
    )


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
