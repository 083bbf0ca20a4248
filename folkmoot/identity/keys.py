"""A party's own signing key (Ed25519, RFC 8032); its private half never leaves the machine."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from folkmoot.errors import ConfigError

__all__ = ["load_key", "new_key", "public_text"]


def new_key(path: Path) -> Ed25519PrivateKey:
    """Make a private key at ``path`` (raw 32 bytes, file mode 0600); never overwrites one."""
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes_raw())
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises
    ------
    ConfigError
        Where there is none, or it is damaged.
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


@lru_cache(maxsize=64)
def _key(path: str, inode: int, changed: int) -> Ed25519PrivateKey:
    """The key as the file held it then: every release signs, and deriving costs as much."""
    return Ed25519PrivateKey.from_private_bytes(Path(path).read_bytes())


def public_text(key: Ed25519PrivateKey) -> str:
    """Public half as 64 hex characters."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
