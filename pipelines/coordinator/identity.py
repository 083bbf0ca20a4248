"""The coordinator's signing key: made once per workspace, its public half in roster and run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError
from folkmoot.identity import Roster, load_key, new_key, public_text

__all__ = ["coordinator_key", "with_coordinator"]


def coordinator_key(workspace: Path) -> Ed25519PrivateKey:
    """The key at ``coordinator/signing.key`` (mode 0600), made where there is none.

    Raises
    ------
    ConfigError
        Where the file is damaged.
    """
    path = os.path.join(workspace, "coordinator", "signing.key")
    try:
        return load_key(path)
    except ConfigError:
        if os.path.exists(path):
            raise
    try:
        return new_key(Path(path))
    except FileExistsError:  # another process made it meanwhile
        return load_key(path)


def with_coordinator(roster: Roster, workspace: Path) -> Roster:
    """The roster with this workspace's coordinator on it."""
    return replace(roster, coordinator=public_text(coordinator_key(workspace)))
