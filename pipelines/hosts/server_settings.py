"""``coordinator/server.toml``: how a coordinator is reached, and which services stand behind it.

A setting that holds a secret (a database's URL, a token) may be written ``file:/path`` instead: the
first line of that file is taken, as systemd's credentials, Docker's and Kubernetes' secrets come.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tomli_w
from pydantic import Field

from folkmoot.errors import ConfigError
from folkmoot.sections import Section, parse

__all__ = ["ServerSettings", "load_settings", "secret", "settings_file"]

#: Schemes that are taken, and the driver that is installed for them (``folkmoot[postgres]``).
_SCHEMES = {
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
    "sqlite": "sqlite",
}


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
    """Airflow's database, such as `postgresql+psycopg2://user:password@host/airflow` or `file:/path`; SQLite when absent."""
    ui_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of Airflow's UI, on loopback."""
    ui_listen: str = "127.0.0.1"
    """Address that Airflow's UI and the API of the coordinator's own tasks listen at; loopback unless they run in containers of their own."""
    task_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the API of the coordinator's own tasks; any free one when 0."""
    task_url: str | None = None
    """Where the coordinator's own tasks reach that API, such as `http://tasks:8081`, when it runs in a container of its own."""
    triggerer: bool = False
    """Whether Airflow's triggerer runs too: deferrable operators of your own DAGs need it, Folkmoot's need none."""
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
    direct_above: Annotated[int, Field(ge=0)] | None = None
    """Bytes above which sites whose stewards permit it (`permissions.stores`) read and upload artefacts by way of the S3 exchange store itself, by links that work for five minutes; all through the coordinator when absent."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the guard's Prometheus endpoint; none when 0."""
    metrics_listen: str = "127.0.0.1"
    """Address of that endpoint. Anywhere but on loopback it wants the token of `coordinator/guard/metrics.token`."""
    statsd: str | None = None
    """StatsD that Airflow's own metrics go to, as `host:port`; needs the package `statsd`."""
    otel: str | None = None
    """OpenTelemetry collector that Airflow's own metrics go to, as `http://host:4318`."""
    late_after_seconds: Annotated[int, Field(ge=1)] | None = None
    """A federated DAG run that still goes on after so long is told to the notifiers, with the sites it waits for."""
    notifiers: dict[str, dict[str, str | int | bool | list[str]]] = {}
    """Classes of Airflow notifiers with their arguments, told of late and failed runs, such as `{"pipelines.hosts.airflow_notify.Webhook" = {url = "file:/path"}}`."""
    mlflow: str | None = None
    """Where the coordinator's MLflow server is reached, `https://host:port`: with logins and TLS; when absent runs are tracked in a file of the workspace."""
    mlflow_listen: str = "127.0.0.1"
    """Address that MLflow listens at. Sites never need it."""
    mlflow_database: str | None = None
    """MLflow's database, such as `postgresql://user:password@host/mlflow` or `file:/path`; SQLite when absent."""
    mlflow_artifacts: str | None = None
    """Where MLflow's server keeps artefacts: a folder or URL (`s3://bucket/prefix`); a folder of the workspace when absent."""

    @property
    def host(self) -> str:
        """Host name of the URL."""
        return str(urlsplit(self.url).hostname)

    @property
    def port(self) -> int:
        """Port of the URL."""
        return urlsplit(self.url).port or 443

    def database_url(self, name: str) -> str | None:
        """``database`` or ``mlflow_database`` with its login, as SQLAlchemy takes it.

        Raises
        ------
        ConfigError
            For what is no URL of a supported database, and as :func:`secret`.
        """
        url = secret(getattr(self, name), name)
        if url is None:
            return None
        scheme, found, rest = url.partition("://")
        if not found or scheme not in _SCHEMES:
            raise ConfigError(  # the URL is not repeated: it may hold a password
                "config.invalid",
                f"{name} is no URL of a database that is supported ({', '.join(_SCHEMES)}).",
                "Write it as postgresql+psycopg2://user:password@host:5432/name, or as file:/path.",
            )
        return f"{_SCHEMES[scheme]}://{rest}"

    def telemetry(self) -> dict[str, str]:
        """Airflow's ``[metrics]``: where its own metrics go.

        Raises
        ------
        ConfigError
            For an address that is none, both at once, or a missing package.
        """
        if self.statsd is None and self.otel is None:
            return {}
        parts = urlsplit(self.otel or f"//{self.statsd}")
        try:
            port = parts.port
        except ValueError:
            port = None
        scheme = ("http", "https") if self.otel else ("",)
        if (self.statsd and self.otel) or not (port and parts.hostname and parts.scheme in scheme):
            raise ConfigError(
                "config.invalid",
                "statsd and otel: Airflow's metrics go to one address, with its port.",
                "Set statsd to host:port, or otel to http://host:4318.",
            )
        if self.statsd is None:
            return {
                "otel_on": "True",
                "otel_host": str(parts.hostname),
                "otel_port": str(port),
                "otel_ssl_active": str(parts.scheme == "https"),
                "otel_interval_milliseconds": "15000",
            }
        from importlib.util import find_spec

        if find_spec("statsd") is None:
            raise ConfigError(
                "config.installation", "statsd is not installed.", "pip install statsd"
            )
        return {
            "statsd_on": "True",
            "statsd_host": str(parts.hostname),
            "statsd_port": str(port),
            "statsd_prefix": "airflow",
        }

    def check(self) -> None:
        """Raise `ConfigError` for settings that do not fit together."""
        _origin("url", self.url)
        if self.mlflow is not None:
            _origin("mlflow", self.mlflow)
            if urlsplit(self.mlflow).netloc == urlsplit(self.url).netloc:
                raise ConfigError(
                    "config.invalid",
                    "url and mlflow name the same host and port.",
                    "Give MLflow a port of its own: sites never talk to it.",
                )
        if (self.certificate is None) != (self.key is None):
            raise ConfigError(
                "config.invalid", "certificate and key go together.", "Give both, or none."
            )
        for path in filter(None, (self.certificate, self.key)):
            if not Path(path).is_file():
                raise ConfigError("config.missing-file", f"{path} does not exist.", "Correct it.")
        for name in ("database", "mlflow_database"):
            self.database_url(name)
        self.telemetry()


def _origin(name: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(
            "config.invalid",
            f"{name}: {url} is not https://host:port.",
            "Name host and port as they are reached, with https and without a path.",
        )


def secret(value: str | None, name: str) -> str | None:
    """The setting itself, or the first line of the file that ``file:/path`` names.

    Raises
    ------
    ConfigError
        Where the file is missing or empty, or other users may read it.
    """
    if value is None or not value.startswith("file:"):
        return value
    path = Path(value.removeprefix("file:").removeprefix("//"))
    try:
        mode = path.stat().st_mode
        line = path.read_text(encoding="utf-8").strip().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        line, mode = "", 0
    if not line:
        raise ConfigError(
            "config.missing-file",
            f"{name} names {path}, which is missing, empty or unreadable.",
            "Write the value into that file, in one line.",
        )
    if stat.S_IMODE(mode) & 0o007:
        raise ConfigError(
            "config.invalid",
            f"{name}: other users of this machine may read {path}.",
            f"chmod o= {path}",
        )
    return line


def settings_file(workspace: Path) -> Path:
    """Where the settings of a workspace's coordinator lie."""
    return workspace / "coordinator" / "server.toml"


def load_settings(workspace: Path, changes: dict[str, Any] | None = None) -> ServerSettings:
    """``server.toml`` with what the options of a command change, kept for the next time.

    Raises
    ------
    ConfigError
        For a file or values that cannot be used.
    """
    path, changes = settings_file(workspace), changes or {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError):
        raise ConfigError(
            "config.syntax", f"{path} is not readable TOML.", "Mend its syntax or its mode."
        ) from None
    settings = parse(ServerSettings, {**values, **changes}, source=str(path))
    settings.check()
    if changes or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for name, field in ServerSettings.model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, dict):  # on one line: a table would swallow the keys after it
                pairs = [f"{tomli_w.dumps({k: 0})[:-5]} = {_inline(v)}" for k, v in value.items()]
                entry = f"{name} = {{ {', '.join(pairs)} }}\n"
            else:
                entry = f"# {name} =\n" if value is None else tomli_w.dumps({name: value})
            lines.append(f"# {field.description}\n{entry}")
        part = path.with_suffix(".part")  # a database's URL may hold a password: the owner's alone
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        os.replace(part, path)
    return settings


def _inline(values: dict[str, Any]) -> str:
    """A TOML table on one line."""
    return f"{{ {', '.join(tomli_w.dumps({k: v}).strip() for k, v in values.items())} }}"
