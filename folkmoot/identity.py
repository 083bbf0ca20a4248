"""Site keys (Ed25519), the federation's roster, signatures.

A site's private key never leaves it.  Everything a site releases ends with a detached signature
over its bytes (RFC 8032), whose header names federation, run, round, site and step.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from folkmoot.errors import ConfigError, ProtocolError

__all__ = ["Roster", "load_key", "new_key", "public_text", "sign", "verify"]

MARK = b"FOLKMOOT-SIGNATURE-1"
_TAIL = len(MARK) + 64


@dataclass(frozen=True)
class Roster:
    """Public keys (64 hex characters) by site name, and the coordinator's own."""

    keys: dict[str, str]
    coordinator: str | None = None

    def key(self, site: str) -> Ed25519PublicKey:
        """Public key of a site.

        Raises
        ------
        ProtocolError
            ``protocol.unknown-site``.
        """
        if site not in self.keys:
            raise ProtocolError(
                "protocol.unknown-site",
                f"Site {site} is not on the roster of this federation.",
                "Enrol it with `folkmoot site enrol`, or correct federation.sites.",
                site=site,
            )
        try:
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.keys[site]))
        except ValueError:
            raise ConfigError(
                "config.invalid",
                f"The roster's key of site {site} is not an Ed25519 public key.",
                "Enrol the site again from its public.toml.",
            ) from None

    @staticmethod
    def load(path: Path) -> Roster:
        """Read ``roster.toml``; an absent file is an empty roster."""
        if not path.exists():
            return Roster({})
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            own = values.get("coordinator", {}).get("key")
            table = values.get("sites", {})
            keys = {str(site): str(entry["key"]) for site, entry in table.items()}
            return Roster(keys, None if own is None else str(own))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                "config.syntax", f"{path} is not a roster.", "Restore it, or enrol the sites again."
            ) from None

    def save(self, path: Path) -> None:
        """Write ``roster.toml``, whole or not at all."""
        lines = ["# Public keys of the member sites; written by `folkmoot site enrol`.\n"]
        if self.coordinator is not None:
            lines.append(f'[coordinator]\nkey = "{self.coordinator}"\n')
        lines += [f'[sites."{site}"]\nkey = "{key}"\n' for site, key in sorted(self.keys.items())]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("\n".join(lines), encoding="utf-8")
        os.replace(part, path)


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


def sign(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """``data`` followed by a mark and its signature (84 bytes)."""
    return data + MARK + key.sign(MARK + data)


def verify(signed: bytes, key: Ed25519PublicKey, *, what: str) -> bytes:
    """The data of :func:`sign`, where the signature holds.

    Raises
    ------
    ProtocolError
        ``protocol.truncated`` or ``protocol.signature``.
    """
    if len(signed) < _TAIL or signed[-_TAIL:-64] != MARK:
        raise ProtocolError(
            "protocol.truncated",
            f"{what} is empty, truncated or not signed.",
            "Run the site's step again; nothing was read from it.",
        )
    data = signed[:-_TAIL]
    try:
        key.verify(signed[-64:], MARK + data)
    except InvalidSignature:
        raise ProtocolError(
            "protocol.signature",
            f"The signature of {what} does not verify.",
            "Compare the roster's key with the site's public.toml; treat the update as forged.",
        ) from None
    return data
