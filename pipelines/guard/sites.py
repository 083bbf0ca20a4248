"""The sites that may come in: their public keys, in a file that is read again when it changes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from folkmoot.errors import ConfigError

__all__ = ["Member", "Sites", "key_set"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,50}")
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """A site that joined.

    Parameters
    ----------
    key : str
        Its public key, 64 hex characters.
    logs : bool
        Whether the text of its tasks' logs is taken; it is dropped otherwise.
    """

    key: str
    logs: bool = False


class Sites:
    """The members, by name; a change on disk counts from the next request.

    Parameters
    ----------
    path : Path
        The file (JSON, mode 0600).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, ...] | None = None
        self._members: dict[str, Member] = {}
        self._keys: dict[str, str] = {}

    @property
    def members(self) -> Mapping[str, Member]:
        """Members by name; nobody where the file is missing or damaged."""
        self._refresh()
        return self._members

    @property
    def keys(self) -> Mapping[str, str]:
        """Public keys (hex) by name."""
        self._refresh()
        return self._keys

    def jwks(self) -> dict[str, Any]:
        """The keys as a JSON Web Key Set (RFC 7517), each under its site's name."""
        return key_set(self.keys)

    def add(self, name: str, member: Member, *, replace: bool = False) -> None:
        """Let a site in.

        Raises
        ------
        ConfigError
            For a faulty name or key, and where the name has another key already.
        """
        if not _NAME.fullmatch(name) or not _KEY.fullmatch(member.key):
            raise ConfigError(
                "config.invalid", "Name or key of the site is malformed.", "See its public.toml."
            )
        with self._locked():
            known = dict(self.members)
            if name in known and known[name].key != member.key and not replace:
                raise ConfigError(
                    "config.invalid",
                    f"Site {name} has joined with another key.",
                    f"Where the new key is right: folkmoot coordinator revoke {name}, and invite it.",
                    site=name,
                )
            self._write({**known, name: member})

    def remove(self, name: str) -> bool:
        """Shut a site out, from its next request on; whether it was in."""
        with self._locked():
            known = dict(self.members)
            found = known.pop(name, None)
            if found is not None:
                self._write(known)
            return found is not None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._stamp = None
            yield

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
            stamp: tuple[int, ...] = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = ()
        if stamp == self._stamp:
            return
        self._members = _read(self.path) if stamp else {}
        self._keys = {name: member.key for name, member in self._members.items()}
        self._stamp = stamp

    def _write(self, members: Mapping[str, Member]) -> None:
        part = self.path.with_suffix(f".{os.getpid()}.part")
        text = json.dumps({name: asdict(member) for name, member in sorted(members.items())})
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.replace(part, self.path)
        self._stamp = None


def _read(path: Path) -> dict[str, Member]:
    """A damaged file lets nobody in."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Member(str(v["key"]), bool(v.get("logs"))) for name, v in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {n: m for n, m in found.items() if _NAME.fullmatch(n) and _KEY.fullmatch(m.key)}


def key_set(keys: Mapping[str, str]) -> dict[str, Any]:
    """Ed25519 public keys (hex) by name as a JSON Web Key Set (RFC 7517, RFC 8037)."""
    from base64 import urlsafe_b64encode

    def one(name: str, key: str) -> dict[str, str]:
        x = urlsafe_b64encode(bytes.fromhex(key)).rstrip(b"=").decode()
        kinds = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}
        return {**kinds, "kid": name, "x": x}

    return {"keys": [one(name, key) for name, key in sorted(keys.items())]}
