"""A new signing key for a site: the former one signs it over, in ``public.toml`` and in the ledger.

Every step can be repeated: where a rotation was interrupted, the next one goes on with the key that
waits in ``private/signing.next``.
"""

from __future__ import annotations

import os

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import PrivacyError
from folkmoot.identity import load_key, new_key, public_text
from folkmoot.identity.keys import is_encrypted
from folkmoot.identity.roster import endorse
from folkmoot.privacy.ledger import Ledger
from site_tasks.git import git
from site_tasks.home import SiteHome
from site_tasks.release import open_ledger

__all__ = ["rotate_key"]


def rotate_key(home: SiteHome) -> str:
    """Make a new signing key, and destroy the former one; returns the new public key (hex).

    Raises
    ------
    ConfigError
        Where the present key is missing.
    PrivacyError
        ``privacy.ledger`` where the ledger does not hold: nothing is changed then.
    """
    private = home.private
    former, waiting = home.key(), private / "signing.next"
    if public_text(former) == _named(home) or not waiting.exists():
        locked = is_encrypted(private / "signing.key")
        new = load_key(waiting) if waiting.exists() else new_key(waiting, encrypted=locked)
        public = {
            "name": home.name,
            "key": public_text(new),
            "endorsement": endorse(home.name, former, new),
        }
        part = home.root / "public.part"
        part.write_text(tomli_w.dumps(public), encoding="utf-8")
        os.replace(part, home.root / "public.toml")
    new = load_key(waiting)
    if home.ledger_path.exists():
        _sign_over(home, new)
    os.replace(waiting, private / "signing.key")  # last: the former key could do all of the above
    git(home.root, "add", "public.toml")
    git(home.root, "commit", "--quiet", "--allow-empty", "-m", "Rotate the signing key")
    return public_text(new)


def _sign_over(home: SiteHome, new: Ed25519PrivateKey) -> None:
    try:  # a rotation that was interrupted behind this point
        ledger = Ledger(home.ledger_path, home.name, key=new)
    except PrivacyError:
        ledger = open_ledger(home)
        ledger.rotate(new)
    ledger.close()


def _named(home: SiteHome) -> str:
    import tomllib

    return str(tomllib.loads((home.root / "public.toml").read_text(encoding="utf-8"))["key"])
