"""What a coordinator's Airflow and its guard are configured with, from params and ``server.toml``.

Beyond the local Airflow's settings: the Edge executor for sites, keys of tokens that no site holds,
how long a site may be away.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import folkmoot
from folkmoot.errors import ConfigError
from folkmoot.params import Params
from pipelines.guard.settings import EDGE, GuardSettings
from pipelines.hosts.airflow_services import PROJECT
from pipelines.hosts.server_settings import ServerSettings

__all__ = ["EXECUTOR", "airflow_sections", "guard_settings", "oldest_worker"]

EXECUTOR = "airflow.providers.edge3.executors.EdgeExecutor"


def oldest_worker(package: str) -> str:
    """The oldest version that works together with the installed one (``folkmoot.versions``)."""
    from importlib.metadata import version

    major, minor = version(package).split(".")[:2]
    return f"{major}.{max(int(minor) - 1, 0)}.0"


def guard_settings(
    params: Params, settings: ServerSettings, workspace: Path, folder: Path
) -> GuardSettings:
    """What the guard before the sites' API server goes by.

    Raises
    ------
    ConfigError
        For ``direct_above`` without an exchange store on S3.
    """
    from importlib.metadata import version

    federation = params.federation
    return GuardSettings(
        str(folder),
        federation.exchange or str(workspace / "exchange"),
        dict(federation.exchange_options),
        {
            "federation": federation.name,
            "sites": list(federation.members),
            "folkmoot": folkmoot.__version__,
            "airflow": version("apache-airflow-core"),
            "edge": version("apache-airflow-providers-edge3"),
        },
        settings.requests_per_second,
        settings.burst,
        settings.largest_artefact,
        _direct(params, settings),
        settings.metrics_listen,
        settings.metrics_port,
    )


def _direct(params: Params, settings: ServerSettings) -> int | None:
    """``direct_above``, where the store is one that sites can read by themselves."""
    above, store = settings.direct_above, params.federation.exchange or ""
    if above is not None and not store.startswith("s3://"):
        raise ConfigError(
            "config.invalid",
            "direct_above: the exchange store is not on S3.",
            "Set federation.exchange to s3://bucket/prefix, or remove direct_above.",
        )
    return above


def airflow_sections(
    sections: dict[str, dict[str, str]], params: Params, settings: ServerSettings, folder: Path
) -> dict[str, dict[str, str]]:
    """The local Airflow's ``sections`` of ``airflow.cfg`` made a coordinator's; changed in place."""
    key = folder / "tasks.pem"
    if not key.exists():
        _private_pem(key)
    sections["core"] |= {
        "executor": f"LocalExecutor,{EXECUTOR}",
        "plugins_folder": str(PROJECT / "plugins"),
    }
    # Tokens of tasks and users are signed with a key that no site ever holds.
    sections["api_auth"] = {"jwt_private_key_path": str(key), "jwt_algorithm": "EdDSA"}
    sections["edge"] = {
        **EDGE,
        "trusted_jwks_url": str(folder / "jwks.json"),
        # A site is upgraded after the coordinator: Airflow serves older workers.
        "minimum_acceptable_core_version_for_workers": oldest_worker("apache-airflow-core"),
        "minimum_acceptable_edge_version_for_workers": oldest_worker(
            "apache-airflow-providers-edge3"
        ),
    }
    deadline = params.federation.deadline_seconds
    sections["scheduler"] |= {
        "task_instance_heartbeat_timeout": str(settings.heartbeat_seconds),
        # A site that is away: its task waits as long as the round, then counts as failed.
        # Its token is good for as long.
        "task_queued_timeout": str(deadline),
        "task_queued_timeout_check_interval": str(max(1, min(120, deadline // 10))),
        "num_stuck_in_queued_retries": "0",
    }
    sections["api"]["host"] = settings.ui_listen
    if settings.telemetry():
        sections["metrics"] = settings.telemetry()
    if settings.task_url is not None:
        url = settings.task_url.rstrip("/")
        sections["core"]["execution_api_server_url"] = f"{url}/execution/"
    database = settings.database_url("database")
    if database is not None:
        sections["database"]["sql_alchemy_conn"] = database
    return sections


def _private_pem(path: Path) -> None:
    made = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made)
