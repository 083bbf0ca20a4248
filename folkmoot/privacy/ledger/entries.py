"""What an entry says, how it is chained to the one before it, and how it is signed.

Every entry has a content digest, which holds no time and no chain, so that the same federation on
another host has the same digests; a chain value ``H(previous, content digest, time, state)``; and
the site's signature (Ed25519) over site, number and chain value, which covers all entries before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.wire import canonical_json

__all__ = ["GENESIS", "KINDS", "Entry", "Head", "Row", "State", "Subject", "sign_head", "signed"]

KINDS = ("open", "reserve", "abandon", "commit", "rotate")
GENESIS = hashlib.sha256(b"folkmoot-ledger-2").hexdigest()
#: seq, kind, release_id, attempt, content, time, state, chain, signature
Row = tuple[int, str, str, int, str, str, str, str, str]


@dataclass(frozen=True)
class Subject:
    """What a release answers, as it is written down.

    Parameters
    ----------
    release_id, federation, run, round, step : str, int
        The release.
    dataset : str
        Keyed fingerprint of the dataset version.
    lineage : str
        The people whose rows they are: all versions of one lineage spend one budget.
    requester : str
        Who asked for the run.
    """

    release_id: str
    federation: str
    run: str
    round: int
    step: str
    dataset: str
    lineage: str = "main"
    requester: str = "coordinator"


@dataclass(frozen=True)
class State:
    """What the ledger knows of a release: attempts that were charged, digest once committed."""

    attempts: int
    artefact: str | None


@dataclass(frozen=True)
class Head:
    """Number, chain value and signature of an entry: enough to recognise a ledger by."""

    seq: int
    chain: str
    signature: str


@dataclass(frozen=True)
class Entry:
    """One entry; ``kind`` is one of :data:`KINDS`: ``rotate`` names the key that signs what follows."""

    seq: int
    kind: str
    release_id: str
    attempt: int
    content: dict[str, Any]
    digest: str
    time: str
    chain: str

    @staticmethod
    def of(row: Row) -> Entry:
        """An entry as it was read."""
        seq, kind, release_id, attempt, text, when, _, chain, _ = row
        content = json.loads(text)
        return Entry(seq, kind, release_id, attempt, content, content_digest(text), when, chain)


def make(
    kind: str,
    about: Mapping[str, Any],
    attempt: int,
    charge: Sequence[Mapping[str, Any]],
    *,
    previous: tuple[int, str],
    when: str,
    state: str,
    site: str,
    key: Ed25519PrivateKey,
) -> Row:
    """The row of a new entry, signed.

    Parameters
    ----------
    kind, about, attempt, charge
        Its content: subject, artefact and receipt, events.
    previous : (int, str)
        Number and chain value of the entry before it; ``(-1, GENESIS)`` for the first.
    when, state : str
        UTC time; digest of the running totals behind this entry.
    site, key
        Whose ledger it is.
    """
    values = {"release_id": "", **about, "kind": kind, "site": site, "attempt": attempt}
    text = canonical_json({**values, "charge": list(charge)}).decode()
    seq = previous[0] + 1
    chain = link(previous[1], content_digest(text), when, state)
    signature = key.sign(_message(site, seq, chain)).hex()
    return (seq, kind, values["release_id"], attempt, text, when, state, chain, signature)


def content_digest(text: str) -> str:
    """SHA-256 (hex) of an entry's canonical content: no time, no chain."""
    return hashlib.sha256(text.encode()).hexdigest()


def link(previous: str, digest: str, when: str, state: str) -> str:
    """Chain value of an entry behind ``previous``."""
    return hashlib.sha256(f"{previous}\0{digest}\0{when}\0{state}".encode()).hexdigest()


def signed(site: str, seq: int, chain: str, signature: str, key: Ed25519PublicKey) -> bool:
    """Whether the site signed this entry."""
    try:
        key.verify(bytes.fromhex(signature), _message(site, seq, chain))
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_head(site: str, seq: int, chain: str, key: Ed25519PrivateKey) -> Head:
    """A head as the ledger itself would sign it."""
    return Head(seq, chain, key.sign(_message(site, seq, chain)).hex())


def consistent(row: Row, site: str) -> dict[str, Any] | None:
    """Content of a row whose columns repeat it, else None."""
    seq, kind, release_id, attempt, text, *_ = row
    try:
        content: dict[str, Any] = json.loads(text)
        same = (
            kind in KINDS
            and content["kind"] == kind
            and content["release_id"] == release_id
            and content["attempt"] == attempt
            and content["site"] == site
            and (kind == "open") == (seq == 0)
            and isinstance(content["charge"], list)
        )
    except (ValueError, KeyError, TypeError):
        return None
    return content if same else None


def _message(site: str, seq: int, chain: str) -> bytes:
    return f"folkmoot-ledger-2\0{site}\0{seq}\0{chain}".encode()
