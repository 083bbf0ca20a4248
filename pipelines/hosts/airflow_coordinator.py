"""The coordinator's Airflow: as the local one, and an API server that sites reach.

Three API servers run: the UI and the coordinator's own tasks have theirs on loopback, closed to sites;
the third listens to the network with TLS, and the guard stands before it.  Site tasks go to the Edge
executor's queues, the coordinator's to the LocalExecutor.  This module does not import Airflow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import Field

from folkmoot.errors import ConfigError, TransientError
from folkmoot.params import Params
from folkmoot.sections import Section
from pipelines.guard.certificates import ensure_certificate
from pipelines.guard.join import Invitations
from pipelines.guard.settings import EDGE, GuardSettings
from pipelines.guard.sites import Sites
from pipelines.hosts.airflow_run import environment
from pipelines.hosts.airflow_services import PROJECT, Services

__all__ = ["EXECUTOR", "Coordinator", "ServerSettings"]

EXECUTOR = "airflow.providers.edge3.executors.EdgeExecutor"


class ServerSettings(Section):
    """``coordinator/server.toml`` of the workspace."""

    url: str = "https://localhost:8443"
    """Where sites reach the coordinator: `https://host:port`, without a path."""
    listen: str = "0.0.0.0"  # noqa: S104 - this is what sites reach
    """Address that the sites' API server listens at."""
    certificate: str | None = None
    """PEM file of the TLS certificate, with its chain; one of an authority of its own when absent."""
    key: str | None = None
    """PEM file of the certificate's key."""
    database: str | None = None
    """Airflow's database, such as `postgresql+psycopg2://user@host/airflow`; SQLite when absent."""
    ui_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of Airflow's UI, on loopback."""
    heartbeat_seconds: Annotated[int, Field(ge=1)] = 60
    """A task that is silent for so long is taken for lost."""
    eager: bool = False
    """Whether the scheduler wakes ten times a second: shorter rounds, a fifth of a core when idle."""
    requests_per_second: Annotated[float, Field(gt=0)] = 50.0
    """Requests that a site may make per second."""
    burst: Annotated[float, Field(ge=1)] = 300.0
    """Requests that a site may make at once."""
    largest_artefact: Annotated[int, Field(ge=1)] = 1 << 30
    """Most bytes of one artefact that a site uploads."""

    @property
    def host(self) -> str:
        """Host name of the URL."""
        return str(urlsplit(self.url).hostname)

    @property
    def port(self) -> int:
        """Port of the URL."""
        return urlsplit(self.url).port or 443

    def check(self) -> None:
        """Raise `ConfigError` for settings that do not fit together."""
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(
                "config.invalid",
                f"url: {self.url} is not https://host:port.",
                "Name host and port as sites see them, with https and without a path.",
            )
        if (self.certificate is None) != (self.key is None):
            raise ConfigError(
                "config.invalid", "certificate and key go together.", "Give both, or none."
            )
        for path in filter(None, (self.certificate, self.key)):
            if not Path(path).is_file():
                raise ConfigError("config.missing-file", f"{path} does not exist.", "Correct it.")


@dataclass(frozen=True)
class _Tls:
    authority: Path | None
    certificate: Path
    key: Path


class Coordinator(Services):
    """Airflow of a coordinator; see :class:`Services`.

    Parameters
    ----------
    params : Params
        What the DAGs train.
    workspace : Path
        The coordinator's workspace.
    settings : ServerSettings
        How sites reach it.
    scheduled : bool
        Whether DAGs start by themselves.
    services : sequence of str
        The services that run here; all by default.
    """

    def __init__(
        self,
        params: Params,
        workspace: Path,
        settings: ServerSettings,
        *,
        scheduled: bool = True,
        services: Sequence[str] = (),
    ) -> None:
        settings.check()
        self.settings, self.params = settings, params
        self.workspace = workspace.absolute()
        self.folder = self.workspace / "coordinator" / "guard"
        super().__init__(
            self.workspace / "airflow",
            environment={
                **environment(params, workspace, scheduled=scheduled),
                "FOLKMOOT_SITES_EXECUTOR": EXECUTOR,
                "FOLKMOOT_SERVICES": " ".join(services),
            },
            port=settings.ui_port,
            eager=settings.eager,
        )

    @property
    def sites(self) -> Sites:
        """Who may come in."""
        return Sites(self.folder / "sites.json")

    @property
    def invitations(self) -> Invitations:
        """Who is invited."""
        return Invitations(self.folder / "invitations.json", self.sites)

    @property
    def authority(self) -> str | None:
        """PEM that sites hold the coordinator to; None with a certificate of a public authority."""
        return None if self._tls.authority is None else self._tls.authority.read_text()

    @property
    def _tls(self) -> _Tls:
        if self.settings.certificate and self.settings.key:
            return _Tls(None, Path(self.settings.certificate), Path(self.settings.key))
        return _Tls(*ensure_certificate(self.folder, self.settings.host))

    def start(self) -> None:
        """Start the services; see :meth:`Services.start`."""
        tls = self._tls
        arguments = ["--host", self.settings.listen, "--port", str(self.settings.port)]
        arguments += ["--ssl-cert", str(tls.certificate), "--ssl-key", str(tls.key)]
        file = self.folder / "guard.json"
        self._guard_settings().write(file)
        self._environment |= {
            "FOLKMOOT_GUARD": str(file),
            "FOLKMOOT_SITES_SERVER": "\n".join(arguments),
        }
        super().start()

    def wait_guarded(self, timeout: float = 180.0) -> None:
        """Wait until the sites' API server answers, and answers as the guard.

        Raises
        ------
        TransientError
            Where it does not come up.
        ConfigError
            Where something else than the guard answers; the services are stopped then.
        """
        import ssl

        import httpx

        port = self.settings.port
        context = ssl.create_default_context(cafile=str(self._tls.certificate))
        # Asked on this machine, under another name than sites use.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        listens = self.settings.listen
        address = "127.0.0.1" if listens in {"0.0.0.0", "::"} else listens  # noqa: S104
        base = f"https://{f'[{address}]' if ':' in address else address}:{port}"
        deadline = time.monotonic() + timeout
        with httpx.Client(base_url=base, verify=context, timeout=30.0) as client:
            while True:
                self.alive()
                try:
                    healthy = client.get("/exchange/health")
                    closed = client.get("/api/v2/version")
                    break
                except httpx.TransportError:
                    if time.monotonic() > deadline:
                        raise TransientError(
                            "transient.service",
                            f"The sites' API server did not come up within {timeout:.0f} s.",
                            f"Look at {self.logs / 'sites-api-server.log'}.",
                        ) from None
                    time.sleep(0.2)
        if healthy.status_code != 200 or closed.status_code != 403:
            self.stop()
            raise ConfigError(
                "config.installation",
                f"The guard does not stand before port {port}; the services were stopped.",
                f"Look at {self.logs / 'sites-api-server.log'}, and at what else uses the port.",
            )

    def _guard_settings(self) -> GuardSettings:
        from importlib.metadata import version

        federation = self.params.federation
        return GuardSettings(
            str(self.folder),
            federation.exchange or str(self.workspace / "exchange"),
            dict(federation.exchange_options),
            {
                "federation": federation.name,
                "sites": list(federation.members),
                "folkmoot": version("folkmoot"),
                "airflow": version("apache-airflow-core"),
                "edge": version("apache-airflow-providers-edge3"),
            },
            self.settings.requests_per_second,
            self.settings.burst,
            self.settings.largest_artefact,
        )

    def _settings(self) -> dict[str, dict[str, str]]:
        settings = super()._settings()
        key = self.folder / "tasks.pem"
        if not key.exists():
            _private_pem(key)
        settings["core"] |= {
            "executor": f"LocalExecutor,{EXECUTOR}",
            "plugins_folder": str(PROJECT / "plugins"),
        }
        # Tokens of tasks and users are signed with a key that no site ever holds.
        settings["api_auth"] = {"jwt_private_key_path": str(key), "jwt_algorithm": "EdDSA"}
        settings["edge"] = {**EDGE, "trusted_jwks_url": str(self.folder / "jwks.json")}
        settings["scheduler"] |= {
            "task_instance_heartbeat_timeout": str(self.settings.heartbeat_seconds),
            # A site that is away: its task waits as long as the round, then counts as failed.
            "task_queued_timeout": str(self.params.federation.deadline_seconds),
            "num_stuck_in_queued_retries": "0",
        }
        if self.settings.database is not None:
            settings["database"]["sql_alchemy_conn"] = self.settings.database
        return settings


def _private_pem(path: Path) -> None:
    made = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made)
