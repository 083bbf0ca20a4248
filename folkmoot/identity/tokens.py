"""By what a site shows the coordinator who it is: short-lived, signed requests.

A JSON Web Token (RFC 7519) signed with the site's Ed25519 key (RFC 8037) whose key id is the site's
name.  As in RFC 9449 it is made for one request: method (``htm``), path (``htu``) and a number used
once (``jti``) stand in it, so that one that is seen cannot be used for anything else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["AUDIENCE", "LEEWAY", "LIFETIME", "Refused", "Visitor", "read_token", "site_token"]

AUDIENCE = "folkmoot-coordinator"
#: Seconds that a token is good for, and by which the two clocks may differ.
LIFETIME, LEEWAY = 60, 30
_CLAIMS = ["aud", "exp", "iat", "nbf", "jti", "htm", "htu", "sub"]


class Refused(Exception):
    """A token that does not count; ``reason`` is one of the words below.

    ``malformed``, ``unknown-site``, ``signature``, ``audience``, ``expired``, ``not-yet``.  ``site`` is
    the member whose key signed it; with a question mark the one that it claims to be from.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.site: str | None = None


@dataclass(frozen=True)
class Visitor:
    """Whom a token names, for which request, and until when it counts."""

    site: str
    method: str
    path: str
    number: str
    expires: float


def site_token(
    site: str,
    key: Ed25519PrivateKey,
    method: str,
    path: str,
    *,
    audience: str = AUDIENCE,
    now: float | None = None,
) -> str:
    """A token for one request of a site.

    Parameters
    ----------
    site : str
        Name of the site.
    key : Ed25519PrivateKey
        Its signing key.
    method, path : str
        Of the request: ``PATCH``, ``/edge_worker/v1/worker/site-a``; without query.
    audience : str
        Whom it is meant for.
    now : float, optional
        Unix time, by default the clock's.
    """
    import jwt

    moment = int(time.time() if now is None else now)
    claims = {
        "sub": site,
        "aud": audience,
        "iat": moment,
        "nbf": moment,
        "exp": moment + LIFETIME,
        "jti": secrets.token_hex(16),
        "htm": method,
        "htu": path,
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": site})


def read_token(text: str, keys: Mapping[str, str], *, audience: str = AUDIENCE) -> Visitor:
    """Verify a token against the public keys (hex) of the sites; O(1).

    Raises
    ------
    Refused
        With the reason; nothing of the token can be believed then.
    """
    import jwt

    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError):
        raise Refused("malformed") from None
    site = header.get("kid")
    if header.get("alg") != "EdDSA" or not isinstance(site, str):
        raise Refused("malformed")
    if site not in keys:
        raise Refused("unknown-site")
    try:
        claims = _claims(text, keys[site], audience)
    except Refused as refused:
        # PyJWT looks at the signature first: of a false one the name is a claim and no more.
        known = refused.reason in {"expired", "not-yet", "audience"}
        refused.site = site if known else f"{site}?"
        raise
    named = [claims[name] for name in ("sub", "htm", "htu", "jti")]
    if not all(isinstance(value, str) for value in named) or claims["sub"] != site:
        raise Refused("malformed")
    lasts = claims["exp"] - claims["iat"]
    if not 0 < lasts <= LIFETIME:
        raise Refused("malformed")
    return Visitor(site, claims["htm"], claims["htu"], claims["jti"], float(claims["exp"]))


def _claims(text: str, key: str, audience: str) -> dict[str, Any]:
    import jwt

    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    try:
        return jwt.decode(
            text,
            public,
            algorithms=["EdDSA"],
            audience=audience,
            leeway=LEEWAY,
            options={"require": _CLAIMS},
        )
    except jwt.ExpiredSignatureError:
        raise Refused("expired") from None
    except jwt.ImmatureSignatureError:
        raise Refused("not-yet") from None
    except jwt.InvalidAudienceError:
        raise Refused("audience") from None
    except jwt.InvalidSignatureError:
        raise Refused("signature") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise Refused("malformed") from None
