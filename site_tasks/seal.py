"""The seal step: canonical bytes of a privatised update, signed with the site's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.identity import sign
from folkmoot.updates import MaskedUpdate, PrivatisedUpdate, to_artefact
from folkmoot.wire import pieces

__all__ = ["seal"]


def seal(
    meta: Mapping[str, Any], update: PrivatisedUpdate | MaskedUpdate, key: Ed25519PrivateKey
) -> bytes:
    """Encode and sign; O(bytes).

    Parameters
    ----------
    meta : mapping
        Binds the bytes: federation, run, round, site, step, release_id, dataset, receipt.
    update : PrivatisedUpdate or MaskedUpdate
        Its parts.
    key : Ed25519PrivateKey
        The site's.

    Raises
    ------
    PrivacyError
        ``privacy.order`` for anything that did not come from privatise.
    """
    return sign(pieces(to_artefact(meta, update)), key)
