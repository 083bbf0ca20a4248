"""``coordinator/mlflow.toml``: how this coordinator logs in to its MLflow server.

::

    uri = "https://fed.example.org:5443"
    username = "folkmoot"        # or token = "…"
    password = "…"
    authority = "/…/ca.pem"      # where the certificate is not of a public authority

``folkmoot coordinator up`` writes it for the server that it starts; for another server it is written by
hand, with mode 0600.  MLflow's own variables (``MLFLOW_TRACKING_USERNAME``, ``…_PASSWORD``,
``…_TOKEN``, ``…_SERVER_CERT_PATH``) go before it.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from folkmoot.errors import ConfigError

__all__ = ["Access"]


@dataclass(frozen=True)
class Access:
    """A login at an MLflow server.

    Parameters
    ----------
    uri : str
        The server.
    username, password : str, optional
        Of an account there.
    token : str, optional
        Instead of an account.
    authority : str, optional
        PEM file that the server's certificate is held to; the public authorities when absent.
    """

    uri: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    authority: str | None = None

    @staticmethod
    def file(workspace: Path) -> Path:
        """Where a workspace keeps it."""
        return workspace / "coordinator" / "mlflow.toml"

    @staticmethod
    def load(workspace: Path) -> Access | None:
        """The login of a workspace, or None where it has none.

        Raises
        ------
        ConfigError
            Where the file is damaged, or others may read it.
        """
        path = Access.file(workspace)
        try:
            mode = path.stat().st_mode
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            found = Access(**values)
            whole = isinstance(found.uri, str) and all(
                value is None or isinstance(value, str) for value in values.values()
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            whole, mode = False, 0
        if not whole:
            raise ConfigError(
                "config.syntax",
                f"{path} does not name uri, username and password (or token) as TOML.",
                "Mend it, or let `folkmoot coordinator up` write it.",
            )
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(
                "config.invalid",
                f"Other users of this machine may read {path}.",
                f"chmod go= {path}",
            )
        return found

    def save(self, workspace: Path) -> None:
        """Write the file (mode 0600)."""
        path = Access.file(workspace)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        text = tomli_w.dumps({k: v for k, v in vars(self).items() if v is not None})
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.replace(part, path)

    def variables(self) -> Mapping[str, str]:
        """The same for MLflow's client, by the names of its environment variables."""
        named = {
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_TRACKING_TOKEN": self.token,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": self.authority,
        }
        return {name: value for name, value in named.items() if value is not None}
