"""What a site's worker is started with: ``airflow.cfg``, params, environment, approved code."""

from __future__ import annotations

import configparser
import json
import os
import shutil

import yaml

from folkmoot.errors import ConfigError
from folkmoot.exchange_direct import VARIABLE as STORES
from folkmoot.exchange_memory import VARIABLE as MEMORY
from folkmoot.identity.visit import VARIABLE, Visit
from pipelines.hosts.airflow_services import PATIENT, PROJECT
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file

__all__ = ["approved", "code", "prepare"]


def prepare(home: SiteHome, *, concurrency: int = 1) -> dict[str, str]:
    """Write the worker's ``airflow.cfg`` and params; returns the environment that it runs in.

    Raises
    ------
    ConfigError
        Where the site has not joined, or the code is not what its steward approved.
    """
    visit = Visit.load(coordinator_file(home))
    approved(home)
    folder = home.private / "airflow"
    folder.mkdir(mode=0o700, exist_ok=True)
    settings: dict[str, dict[str, str]] = {
        "core": {
            "dags_folder": str(PROJECT / "dags"),
            "plugins_folder": str(folder / "plugins"),
            "load_examples": "False",
            "execution_api_server_url": f"{visit.url}/execution/",
        },
        "api": {"ssl_cert": str(visit.authorities or "")},
        "database": {"sql_alchemy_conn": f"sqlite:///{folder / 'unused.db'}"},
        "edge": {
            "api_url": f"{visit.url}/edge_worker/v1/",
            "push_logs": str(home.settings.permissions.logs),
            "job_poll_interval": "1",
            "heartbeat_interval": "10",
            "worker_concurrency": str(concurrency),
            "extended_system_info_function": "pipelines.hosts.airflow_worker.facts",
        },
        "logging": {"base_log_folder": str(folder / "logs"), "remote_logging": "False"},
        "workers": {"min_heartbeat_interval": "1", "execution_api_timeout": "30", **PATIENT},
        "usage_data_collection": {"enabled": "False"},
    }
    if visit.authorities is not None:
        settings["api"] |= {
            "ssl_ca_file": str(visit.authorities),
            "client_use_public_certs": "False",
        }
    config = configparser.ConfigParser(interpolation=None)
    config.read_dict(
        {s: {k: v.replace("%", "%%") for k, v in o.items()} for s, o in settings.items()}
    )
    with (folder / "airflow.cfg").open("w", encoding="utf-8") as file:
        config.write(file)
    facts = json.loads((home.private / "federation.json").read_text(encoding="utf-8"))
    federation = {
        "name": facts["federation"],
        "sites": facts["sites"],
        "exchange": f"{visit.url}/exchange/v1",
        "workspace": str(home.work / "coordinator"),
    }
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump({"federation": federation}), encoding="utf-8")
    memory = folder / "exchange"
    shutil.rmtree(memory, ignore_errors=True)  # of the last worker
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "FOLKMOOT_"))}
    passphrase = {k: v for k, v in os.environ.items() if k.startswith("FOLKMOOT_PASSPHRASE")}
    trusted = {} if visit.authorities is None else {"SSL_CERT_FILE": str(visit.authorities)}
    return {
        **kept,
        **passphrase,
        **trusted,
        VARIABLE: str(coordinator_file(home)),
        MEMORY: str(memory),
        STORES: " ".join(home.settings.permissions.stores),
        "AIRFLOW_HOME": str(folder),
        "FOLKMOOT_SITE": home.name,
        "FOLKMOOT_SITE_HOME": str(home.root),
        "FOLKMOOT_PARAMS": str(params),
        "FOLKMOOT_ROOT": str(folder),
        "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [kept.get("PYTHONPATH")])]),
        # A coordinator that is started again is waited for, and asked soon after.
        "AIRFLOW__EDGE__API_RETRIES": "60",
        "AIRFLOW__EDGE__API_RETRY_WAIT_MAX": "8",
        "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
    }


def code() -> tuple[str | None, bool]:
    """Commit of the code that would run here, and whether anything in it was changed."""
    from site_tasks.code import commit_of

    return commit_of(PROJECT)


def approved(home: SiteHome) -> None:
    """Raise `ConfigError` unless the code is approved, where ``permissions.code`` names commits."""
    wanted = home.settings.permissions.code
    if not wanted:
        return
    commit, changed = code()
    if commit in wanted and not changed:
        return
    what = "was changed" if commit in wanted else f"is {(commit or 'no commit')[:12]}"
    raise ConfigError(
        "config.stale",
        f"The code of this worker {what}; permissions.code of site.toml approves another.",
        "Check out an approved commit, or review this one and add it to permissions.code.",
        site=home.name,
    )
