"""What the coordinator asks of the sites, under its signature: the run, and every global model.

``<key>.signature`` beside an artefact holds signed canonical JSON with federation, run, the artefact's
key and its digest: a model of another run, of another round, or of somebody who can write to the
exchange store is no order.  The signature stands beside the artefact and not in it, so that the same
run gives the same bytes under whatever key.
"""

from __future__ import annotations

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from folkmoot.errors import ProtocolError
from folkmoot.identity.signatures import sign, verify
from folkmoot.wire import canonical_json

__all__ = ["check_order", "order", "signature_key"]


def signature_key(key: str) -> str:
    """Where the signature of an artefact lies, relative to the run."""
    return f"{key}.signature"


def order(federation: str, run: str, key: str, digest: str, signing: Ed25519PrivateKey) -> bytes:
    """The coordinator's word for what lies under ``key``."""
    values = {"kind": "order", "federation": federation, "run": run, "key": key, "digest": digest}
    return sign(canonical_json(values), signing)


def check_order(
    data: bytes | None, federation: str, run: str, key: str, digest: str, coordinator: str
) -> None:
    """Refuse an artefact that the coordinator did not sign for this run and key.

    Parameters
    ----------
    data : bytes or None
        What lies under :func:`signature_key`.
    digest : str
        SHA-256 (hex) of the artefact.
    coordinator : str
        The coordinator's public key (64 hex characters), from a roster that the site accepted.

    Raises
    ------
    ProtocolError
        ``protocol.signature``.
    """
    expect = {"kind": "order", "federation": federation, "run": run, "key": key, "digest": digest}
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(coordinator))
        body = verify(data or b"", public, what=f"The order for {key}")
        fit = json.loads(body) == expect
    except (ProtocolError, ValueError, RecursionError):
        fit = False
    if not fit:
        raise ProtocolError(
            "protocol.signature",
            f"{key} of run {run} is not what the federation's coordinator signed for it.",
            "Find out who published it; the site did nothing with it.",
        )
