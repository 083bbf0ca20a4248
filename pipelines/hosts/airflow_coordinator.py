"""The coordinator's Airflow: as the local one, and an API server that sites reach.

Three API servers run: the UI and the coordinator's own tasks have theirs on loopback, closed to sites;
the third listens to the network with TLS, and the guard stands before it.  Site tasks go to the Edge
executor's queues, the coordinator's to the LocalExecutor.  This module does not import Airflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from folkmoot.errors import ConfigError, FolkmootError, TransientError
from folkmoot.params import Params
from pipelines.coordinator.mlflow_server import MlflowServer
from pipelines.guard.certificates import ensure_certificate
from pipelines.guard.join import Invitations
from pipelines.guard.settings import GuardSettings
from pipelines.guard.sites import Sites
from pipelines.hosts.airflow_coordinator_settings import (
    EXECUTOR,
    airflow_sections,
    guard_settings,
)
from pipelines.hosts.airflow_launch import COMMANDS, MLFLOW, OPTIONAL, SITES
from pipelines.hosts.airflow_run import environment
from pipelines.hosts.airflow_services import Services
from pipelines.hosts.database import check_database
from pipelines.hosts.server_settings import ServerSettings

__all__ = ["Coordinator", "ServerSettings"]


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
    beside : bool
        Whether another process may run it: the params that its DAGs train are left as they are.
    """

    def __init__(
        self,
        params: Params,
        workspace: Path,
        settings: ServerSettings,
        *,
        scheduled: bool = True,
        services: Sequence[str] = (),
        beside: bool = False,
    ) -> None:
        settings.check()
        self.settings, self.params = settings, params
        self.workspace = workspace.absolute()
        self.folder = self.workspace / "coordinator" / "guard"
        super().__init__(
            self.workspace / "airflow",
            environment={
                **({} if beside else environment(params, workspace, scheduled=scheduled)),
                "FOLKMOOT_SITES_EXECUTOR": EXECUTOR,
                "FOLKMOOT_SERVICES": " ".join(services),
            },
            port=settings.ui_port,
            eager=settings.eager,
        )
        self._task_preferred = settings.task_port
        if settings.notifiers or settings.late_after_seconds:
            told = {"late": settings.late_after_seconds, "notifiers": settings.notifiers}
            self._environment["FOLKMOOT_NOTIFY"] = json.dumps(told)
        if settings.triggerer:
            self._environment["FOLKMOOT_TRIGGERER"] = "1"

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
    def mlflow(self) -> MlflowServer | None:
        """The MLflow server of the settings, where they name one."""
        url, settings = self.settings.mlflow, self.settings
        if url is None:
            return None
        host = str(urlsplit(url).hostname)
        if settings.certificate and settings.key and host == settings.host:
            tls = _Tls(None, Path(settings.certificate), Path(settings.key))
        else:  # of an authority of its own: the coordinator alone has to know it
            tls = _Tls(*ensure_certificate(self.workspace / "coordinator" / "mlflow", host))
        return MlflowServer(
            self.workspace,
            url.rstrip("/"),
            settings.mlflow_listen,
            settings.database_url("mlflow_database"),
            settings.mlflow_artifacts,
            tls.certificate,
            tls.key,
            tls.authority,
        )

    @property
    def _tls(self) -> _Tls:
        if self.settings.certificate and self.settings.key:
            return _Tls(None, Path(self.settings.certificate), Path(self.settings.key))
        return _Tls(*ensure_certificate(self.folder, self.settings.host))

    def start(self) -> None:
        """Start the services; see :meth:`Services.start`."""
        self._prepare()
        super().start()

    def configure(self) -> None:
        """Write what services in processes or containers of their own read, and make the databases.

        Raises
        ------
        ConfigError
            Where a port is left to chance.
        """
        settings = self.settings
        if not (settings.ui_port and settings.task_port):
            raise ConfigError(
                "config.invalid",
                "ui_port and task_port are 0: other processes could not find them.",
                "Name both in coordinator/server.toml.",
            )
        self.home.mkdir(parents=True, exist_ok=True)
        self.port, self._task_port = settings.ui_port, settings.task_port
        self._prepare()
        self._configure()
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self._launched(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.logs / "migrate.log").write_bytes(done.stdout + done.stderr)
            raise TransientError(
                "transient.service",
                "Airflow's database could not be made.",
                f"Look at {self.logs / 'migrate.log'}.",
            )

    def serve(self, service: str) -> None:
        """Become one service; :meth:`configure` has run before.

        Raises
        ------
        ConfigError
            For an unknown service, or without configuration.
        """
        known = [SITES, *COMMANDS, *OPTIONAL, *([MLFLOW] if self.settings.mlflow else [])]
        if service not in known:
            raise ConfigError(
                "config.invalid", f"{service} is no service.", f"One of: {', '.join(known)}."
            )
        if not (self.home / "airflow.cfg").exists():
            raise ConfigError(
                "config.missing-file",
                f"{self.home} is not configured.",
                "folkmoot coordinator configure, first.",
            )
        self.port, self._task_port = self.settings.ui_port, self.settings.task_port
        self._environment |= self._variables()
        self._environment |= {"FOLKMOOT_SERVICES": service, "FOLKMOOT_MIGRATED": "1"}
        if service == "triggerer":
            self._environment["FOLKMOOT_TRIGGERER"] = "1"
        server = self.mlflow
        if service == MLFLOW and server is not None and os.fork() == 0:
            # Beside the server that this process becomes: the coordinator's own account there.
            try:
                server.ensure_account()
            except FolkmootError as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(0)
        command = [sys.executable, "-m", "pipelines.hosts.airflow_launch", "--service"]
        os.execve(command[0], command, self._launched())  # noqa: S606 - in this process's place

    def _prepare(self) -> None:
        """Check the databases; write what guard and MLflow read."""
        for name in ("database", "mlflow_database"):
            url = self.settings.database_url(name)
            if url is not None:
                check_database(url, name)
        self._prepare_mlflow()
        self._guard_settings().write(self.folder / "guard.json")
        self._environment |= self._variables()

    def _variables(self) -> dict[str, str]:
        """What tells the launcher of guard and MLflow."""
        tls = self._tls
        arguments = ["--host", self.settings.listen, "--port", str(self.settings.port)]
        arguments += ["--ssl-cert", str(tls.certificate), "--ssl-key", str(tls.key)]
        server = self.mlflow
        return {
            "FOLKMOOT_GUARD": str(self.folder / "guard.json"),
            "FOLKMOOT_SITES_SERVER": "\n".join(arguments),
            **({} if server is None else {"FOLKMOOT_MLFLOW": str(server.folder / "command.json")}),
        }

    def _prepare_mlflow(self) -> None:
        """Write what the launcher starts MLflow with, and how tracking logs in there."""
        server = self.mlflow
        if server is None:
            return
        command, added = server.prepare()
        server.announce()
        file = server.folder / "command.json"
        text = json.dumps({"command": command, "environment": added})
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)

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
        return guard_settings(self.params, self.settings, self.workspace, self.folder)

    def _settings(self) -> dict[str, dict[str, str]]:
        return airflow_sections(super()._settings(), self.params, self.settings, self.folder)
