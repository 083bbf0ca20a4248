"""The coordinator's MLflow server: logins, TLS, artefacts through the server alone.

MLflow's own programs and its ``basic-auth`` app, with what they need in files of mode 0600 and in the
environment: nothing secret stands on a command line.  This module does not import MLflow.
"""

from __future__ import annotations

import configparser
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from folkmoot.errors import ConfigError, TransientError
from pipelines.coordinator.mlflow_access import Access

__all__ = ["ACCOUNT", "ADMINISTRATOR", "MlflowServer"]

ADMINISTRATOR, ACCOUNT = "admin", "folkmoot"


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server of a workspace.

    Parameters
    ----------
    workspace : Path
        The coordinator's; the server's own files lie in ``coordinator/mlflow/`` there.
    url : str
        Where it is reached: ``https://host:port``.
    listen : str
        Address that it listens at.
    database : str, optional
        URL of its database, logins included; SQLite files of the workspace when absent.
    artifacts : str, optional
        Folder or URL behind the server's artefacts; a folder of the workspace when absent.
    certificate, key : Path
        TLS, PEM.
    authority : Path, optional
        PEM that the certificate is held to; the public authorities when absent.
    """

    workspace: Path
    url: str
    listen: str
    database: str | None
    artifacts: str | None
    certificate: Path
    key: Path
    authority: Path | None = None

    @property
    def folder(self) -> Path:
        """The server's own files."""
        return self.workspace / "coordinator" / "mlflow"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Write what the server reads; returns its command and what to add to the environment."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = self._secrets()
        artifacts = self.artifacts or str(self.workspace / "coordinator" / "mlartifacts")
        config = configparser.ConfigParser()
        config["mlflow"] = {
            # Who logs in may look; who made an experiment or model may change it.
            "default_permission": "READ",
            "database_uri": (self.database or f"sqlite:///{self.folder / 'logins.db'}").replace(
                "%", "%%"
            ),
            "admin_username": ADMINISTRATOR,
            "admin_password": known["administrator"],
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            # Checking a password costs a tenth of a second; rounds make dozens of requests.
            "auth_cache_ttl_seconds": "60",
        }
        logins = self.folder / "logins.ini"
        with _private(logins) as file:
            config.write(file)
        parts = urlsplit(self.url)
        port = parts.port or 443
        hosts = {f"{parts.hostname}:{port}", str(parts.hostname), f"localhost:{port}"}
        command = [
            str(Path(sys.executable).with_name("mlflow")),
            *("server", "--app-name", "basic-auth", "--workers", "1"),
            *("--host", self.listen, "--port", str(port)),
            *("--artifacts-destination", artifacts),
            *("--allowed-hosts", ",".join(sorted({*hosts, f"127.0.0.1:{port}"}))),
            *("--uvicorn-opts", f"--ssl-certfile '{self.certificate}' --ssl-keyfile '{self.key}'"),
        ]
        own = f"sqlite:///{self.workspace / 'coordinator' / 'mlflow.db'}"
        return command, {
            "MLFLOW_BACKEND_STORE_URI": self.database or own,
            "MLFLOW_AUTH_CONFIG_PATH": str(logins),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": known["cookies"],
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    @property
    def login(self) -> tuple[str, str]:
        """User name and password of the administrator."""
        return ADMINISTRATOR, self._secrets()["administrator"]

    def announce(self) -> Access:
        """Write the coordinator's own login (``coordinator/mlflow.toml``), as tracking reads it."""
        authority = None if self.authority is None else str(self.authority)
        access = Access(self.url, ACCOUNT, self._secrets()["account"], authority=authority)
        access.save(self.workspace)
        return access

    def ensure_account(
        self, timeout: float = 180.0, alive: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until the server answers, and make the coordinator's own account there once.

        Raises
        ------
        TransientError
            Where it does not come up.
        ConfigError
            Where it refuses its own administrator.
        """
        import ssl

        import httpx

        context = ssl.create_default_context(
            cafile=None if self.authority is None else str(self.authority)
        )
        deadline = time.monotonic() + timeout
        with httpx.Client(base_url=self.url, verify=context, timeout=30.0) as client:
            while True:
                alive()
                try:
                    if client.get("/health").is_success:
                        break
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline:
                    raise TransientError(
                        "transient.service",
                        f"MLflow did not come up at {self.url} within {timeout:.0f} s.",
                        f"Look at {self.workspace / 'airflow/logs/services/mlflow.log'}, and whether "
                        "its name leads to this machine.",
                    )
                time.sleep(0.2)
            account = {"username": ACCOUNT, "password": self._secrets()["account"]}
            users = "/api/2.0/mlflow/users"
            own = (ACCOUNT, account["password"])
            if client.get(f"{users}/get", params={"username": ACCOUNT}, auth=own).is_success:
                return
            made = client.post(f"{users}/create", json=account, auth=self.login)
            if made.is_success:
                return
            raise ConfigError(
                "config.installation",
                f"MLflow at {self.url} does not take the logins of {self.folder / 'secrets.json'} "
                f"({made.status_code}).",
                "Restore that file from the backup that belongs to the database, or set the passwords "
                "of admin and folkmoot by hand.",
            )

    def _secrets(self) -> dict[str, str]:
        path = self.folder / "secrets.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = {
                name: secrets.token_urlsafe(24) for name in ("administrator", "account", "cookies")
            }
            with _private(path) as file:
                json.dump(made, file)
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found


def _private(path: Path) -> IO[str]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")
