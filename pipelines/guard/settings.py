"""The guard's settings, as the API server that it stands in reads them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from folkmoot.identity import load_key, new_key
from pipelines.guard.limits import Limits
from pipelines.guard.sites import key_set

__all__ = ["EDGE", "NAME", "GuardSettings"]

NAME = "folkmoot-guard"
#: ``[edge]`` of airflow.cfg: whose tokens the edge API takes.
EDGE = {
    "api_enabled": "True",
    "jwt_issuer": NAME,
    "jwt_audience": NAME,
    "jwt_algorithm": "EdDSA",
    "jwt_verifier": "pipelines.hosts.airflow_guard.only_the_guard",
}


@dataclass(frozen=True)
class GuardSettings:
    """Where the guard finds what it needs.

    Parameters
    ----------
    folder : str
        The coordinator's own: ``sites.json``, ``invitations.json``, ``guard.key``, ``jwks.json``.
    exchange : str
        URL or folder of the exchange store.
    exchange_options : dict
        Options of its fsspec filesystem.
    facts : dict
        What a member is told: federation, versions.
    rate, burst, upload
        As in :class:`pipelines.guard.limits.Limits`.
    direct : int, optional
        As in :func:`pipelines.guard.exchange.exchange_app`.
    metrics_listen, metrics_port : str, int
        Where the operator reads the guard's metrics; nowhere for port 0.
    """

    folder: str
    exchange: str
    exchange_options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    rate: float = Limits.rate
    burst: float = Limits.burst
    upload: int = Limits.upload
    direct: int | None = None
    metrics_listen: str = "127.0.0.1"
    metrics_port: int = 0

    def write(self, path: Path) -> None:
        """Write the file that ``FOLKMOOT_GUARD`` names, and the guard's key with its public set."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = folder / "guard.key"
        public = (load_key(key) if key.exists() else new_key(key)).public_key().public_bytes_raw()
        _write(folder / "jwks.json", key_set({NAME: public.hex()}))
        _write(path, asdict(self))

    @staticmethod
    def load(path: Path) -> GuardSettings:
        """Read the file."""
        return GuardSettings(**json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, values: Any) -> None:
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(values, file)
    os.replace(part, path)
