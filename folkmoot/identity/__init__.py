"""Who is who: keys, signatures, and the roster that all members sign."""

from __future__ import annotations

from folkmoot.identity.keys import load_key, new_key, public_text
from folkmoot.identity.roster import Roster
from folkmoot.identity.signatures import sign, verified, verify

__all__ = ["Roster", "load_key", "new_key", "public_text", "sign", "verified", "verify"]
