"""The federation's roster: whose keys count, signed by every member.

::

    version = 3                      one more with every change that was signed by all
    previous = "<digest of version 2>"
    [coordinator]    key = "..."
    [sites."a"]      key = "...", endorsement = "..."   a changed key, signed with the former one
    [signatures]     a = "..."       of every site listed, over all of the above

A site takes part only in runs whose members' keys are those of the newest roster that its own
steward accepted (``site_tasks.membership``), so that the coordinator can neither add a member, nor
exchange a key, nor bring an old roster back.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.identity.keys import public_text
from folkmoot.wire import canonical_json
from folkmoot.wire import digest as sha256

__all__ = ["Roster", "endorse", "endorsed"]

_ROSTER = b"FOLKMOOT-ROSTER-1"
_ENDORSE = b"FOLKMOOT-ENDORSE-1"


@dataclass(frozen=True)
class Roster:
    """Public keys (64 hex characters) by site name, the coordinator's own, and who agreed to them.

    Parameters
    ----------
    keys : dict of str to str
        Ed25519 public keys of the member sites.
    coordinator : str, optional
        The coordinator's public key.
    version : int
        Counts the rosters that all members of their time signed; a draft has the next number.
    previous : str, optional
        Digest (hex) of the version before.
    endorsements : dict of str to str
        Signatures (hex) with a site's former key over its new one.
    signatures : dict of str to str
        Signatures (hex) by site.
    """

    keys: dict[str, str]
    coordinator: str | None = None
    version: int = 1
    previous: str | None = None
    endorsements: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)

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
            return _public(self.keys[site])
        except ValueError:
            raise ConfigError(
                "config.invalid",
                f"The roster's key of site {site} is not an Ed25519 public key.",
                "Enrol the site again from its public.toml.",
            ) from None

    def statement(self) -> bytes:
        """What the members sign: canonical JSON of all but the signatures."""
        return canonical_json(
            {
                "version": self.version,
                "previous": self.previous,
                "coordinator": self.coordinator,
                "sites": self.keys,
                "endorsements": self.endorsements,
            }
        )

    def digest(self) -> str:
        """SHA-256 (hex) of :meth:`statement`."""
        return sha256(self.statement())

    def signed(self, site: str, key: Ed25519PrivateKey) -> Roster:
        """The roster with a site's signature on it."""
        signature = key.sign(_ROSTER + self.statement()).hex()
        return replace(self, signatures={**self.signatures, site: signature})

    def unsigned(self) -> tuple[str, ...]:
        """Sites of the roster whose valid signature it lacks; O(sites)."""
        claims = ((site, key, self.signatures.get(site, "")) for site, key in self.keys.items())
        return _unsigned(_ROSTER + self.statement(), tuple(sorted(claims)))

    def amended(
        self,
        keys: Mapping[str, str],
        coordinator: str | None,
        endorsements: Mapping[str, str] | None = None,
    ) -> Roster:
        """The next version with other keys, unsigned; the same roster where nothing changes.

        A draft that not everybody has signed yet is changed in place: it was never in force.
        """
        if (dict(keys), coordinator) == (self.keys, self.coordinator):
            return self
        fresh = Roster(dict(keys), coordinator, endorsements=dict(endorsements or {}))
        if not self.keys:
            return fresh
        if self.unsigned():
            return replace(fresh, version=self.version, previous=self.previous)
        return replace(fresh, version=self.version + 1, previous=self.digest())

    def changes(self, before: Roster | None) -> list[str]:
        """Sentences on what is new against the roster before, for a steward who is to sign it."""
        old = {} if before is None else before.keys
        lines = [f"{site} joins" for site in sorted(self.keys.keys() - old.keys())]
        lines += [f"{site} leaves" for site in sorted(old.keys() - self.keys.keys())]
        for site in sorted(self.keys.keys() & old.keys()):
            if self.keys[site] != old[site]:
                proof = self.endorsements.get(site, "")
                held = endorsed(site, old[site], self.keys[site], proof)
                how = "signed with its former key" if held else "NOT signed with its former key"
                lines.append(f"{site} has a new key, {how}")
        if before is not None and before.coordinator != self.coordinator:
            lines.append("the coordinator has a new key")
        return lines

    # Files ------------------------------------------------------------------------------------

    @staticmethod
    def load(path: Path) -> Roster:
        """Read ``roster.toml``; an absent file is an empty roster.

        Raises
        ------
        ConfigError
            ``config.syntax``, naming the file.
        """
        try:
            return Roster.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Roster({})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                "config.syntax", f"{path} is not a roster.", "Restore it, or enrol the sites again."
            ) from None

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Roster:
        """Inverse of :meth:`to_dict`; raises what a mapping of another shape gives."""
        sites = values.get("sites", {})
        own = values.get("coordinator", {}).get("key")
        previous = values.get("previous")
        return Roster(
            keys={str(site): str(entry["key"]) for site, entry in sites.items()},
            coordinator=None if own is None else str(own),
            version=int(values.get("version", 1)),
            previous=None if previous is None else str(previous),
            endorsements={
                str(site): str(entry["endorsement"])
                for site, entry in sites.items()
                if "endorsement" in entry
            },
            signatures={str(s): str(v) for s, v in values.get("signatures", {}).items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON or TOML values."""
        own = {} if self.coordinator is None else {"coordinator": {"key": self.coordinator}}
        before = {} if self.previous is None else {"previous": self.previous}
        sites = {
            site: {
                "key": key,
                **({"endorsement": self.endorsements[site]} if site in self.endorsements else {}),
            }
            for site, key in sorted(self.keys.items())
        }
        signatures = {site: self.signatures[site] for site in sorted(self.signatures)}
        return {
            "version": self.version,
            **before,
            **own,
            "sites": sites,
            "signatures": signatures,
        }

    def save(self, path: Path) -> None:
        """Write ``roster.toml``, whole or not at all."""
        import tomli_w

        text = "# Public keys of the member sites, signed by all of them: see `folkmoot roster`.\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(text + tomli_w.dumps(self.to_dict()), encoding="utf-8")
        os.replace(part, path)


def endorse(site: str, former: Ed25519PrivateKey, new: Ed25519PrivateKey) -> str:
    """Signature (hex) with a site's former key over its new one."""
    return former.sign(_claim(site, public_text(new))).hex()


def endorsed(site: str, former: str, new: str, endorsement: str) -> bool:
    """Whether the holder of a site's ``former`` public key signed its ``new`` one."""
    return _holds(former, endorsement, _claim(site, new))


def _claim(site: str, key: str) -> bytes:
    return _ENDORSE + canonical_json([site, key])


@lru_cache(maxsize=4096)
def _public(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


@lru_cache(maxsize=8)
def _unsigned(statement: bytes, claims: tuple[tuple[str, str, str], ...]) -> tuple[str, ...]:
    """Remembered: in a simulation every site asks the same."""
    return tuple(site for site, key, signature in claims if not _holds(key, signature, statement))


def _holds(key: str, signature: str, statement: bytes) -> bool:
    try:
        _public(key).verify(bytes.fromhex(signature), statement)
    except (InvalidSignature, ValueError):
        return False
    return True
