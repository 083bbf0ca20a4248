"""One-time invitations: how a new site's key comes to the guard.

The coordinator makes an invitation for a name; its text (the token) goes to the site's steward by a
way of their own.  It holds a secret that counts once and for a while, where the coordinator is, and
its certificate, so that the first word already goes to the right machine.  The coordinator keeps a
hash of the secret only.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.identity.invitation import PROOF, Invitation
from pipelines.guard.metrics import tell_refused
from pipelines.guard.sites import Member, Sites

__all__ = ["Invitations"]


@dataclass(frozen=True)
class _Entry:
    hash: str
    expires: float


class Invitations:
    """Invitations that are out, in a file of the coordinator.

    Parameters
    ----------
    path : Path
        The file (JSON, mode 0600).
    sites : Sites
        Where a site's key goes when it accepts.
    facts : mapping
        What a site is told when it has joined.
    """

    def __init__(self, path: Path, sites: Sites, facts: Mapping[str, Any] | None = None) -> None:
        self.path, self.sites, self.facts = path, sites, dict(facts or {})

    def invite(
        self, site: str, url: str, certificate: str | None, *, hours: float = 48.0
    ) -> Invitation:
        """A new invitation; an earlier one of the same site counts no more.

        Parameters
        ----------
        site : str
            Name of the site.
        url : str
            Where the coordinator is, as the site sees it.
        certificate : str, optional
            PEM of what its TLS certificate is held to; the public authorities when absent.
        hours : float
            How long it counts.
        """
        secret = secrets.token_bytes(24)
        expires = time.time() + 3600.0 * hours
        with self._entries() as entries:
            now = time.time()
            for name in [n for n, e in entries.items() if e.expires < now]:
                del entries[name]
            entries[site] = _Entry(hashlib.sha256(secret).hexdigest(), expires)
        return Invitation(site, url, secret.hex(), int(expires), certificate)

    def expiries(self) -> dict[str, float]:
        """Until when (Unix time) each invited site may join."""
        return {site: entry.expires for site, entry in self._read().items()}

    def accept(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take a site in, once.

        Parameters
        ----------
        values : mapping
            ``site``, ``secret``, ``key`` (public, hex) and ``proof``: a signature of that key over
            both, so that nobody joins under a key that he does not hold.

        Raises
        ------
        ProtocolError
            ``protocol.refused``; which of the reasons it was is not told to a stranger, but that the
            invitation has expired is.  The coordinator's record of refusals has the reason, under the
            site's name where that is invited or joined.
        """
        texts = [values.get(name) for name in ("site", "secret", "key", "proof")]
        if not all(isinstance(text, str) and len(text) <= 200 for text in texts):
            raise _refused("The invitation is malformed.", "", "join-unknown")
        site, secret, key, proof = (str(text) for text in texts)
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            public.verify(bytes.fromhex(proof), PROOF + f"{site}\n{secret}".encode())
            given = hashlib.sha256(bytes.fromhex(secret)).hexdigest()
        except (InvalidSignature, ValueError):
            who, why = self._claim(site, self._read())
            raise _refused("The invitation does not count here.", who, why) from None
        with self._entries() as entries:
            entry = entries.get(site)
            if entry is None or not hmac.compare_digest(entry.hash, given):
                who, why = self._claim(site, entries, key)
                raise _refused("The invitation does not count here, or was used.", who, why)
            if entry.expires < time.time():
                raise _refused("The invitation has expired.", site, "join-expired")
            try:
                self.sites.add(site, Member(key))
            except ConfigError as error:
                raise _refused(error.message, site, "join-key") from None
            del entries[site]
        return {**self.facts, "site": site}

    def _claim(
        self, site: str, entries: Mapping[str, _Entry], key: str | None = None
    ) -> tuple[str, str]:
        """Name and reason for the record, of a guest without the secret of the site's invitation.

        Whoever asks may have made the name up, so that only names that are known here are kept; they
        are a claim (question mark) unless the guest holds the key of the member.
        """
        member = self.sites.members.get(site)
        if member is None and site not in entries:
            return "", "join-unknown"
        who = site if member is not None and member.key == key else f"{site}?"
        return who, "join-wrong" if site in entries else "join-used"

    @contextmanager
    def _entries(self) -> Iterator[dict[str, _Entry]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            entries = self._read()
            before = dict(entries)
            yield entries
            if entries != before:
                part = self.path.with_suffix(f".{os.getpid()}.part")
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                with os.fdopen(os.open(part, flags, 0o600), "w") as out:
                    json.dump({name: asdict(entry) for name, entry in entries.items()}, out)
                os.replace(part, self.path)

    def _read(self) -> dict[str, _Entry]:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            return {n: _Entry(str(v["hash"]), float(v["expires"])) for n, v in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _refused(message: str, site: str, reason: str) -> ProtocolError:
    tell_refused(site, reason)
    return ProtocolError(
        "protocol.refused", message, "Ask the coordinator for a new one: coordinator invite."
    )
