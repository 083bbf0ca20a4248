"""Reaching MLflow: where it is, how it is opened, and what its failures mean.

``mlflow`` takes seconds to import, so it is imported inside functions alone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from folkmoot.errors import ConfigError, FolkmootError, TransientError
from folkmoot.params import Params
from pipelines.coordinator.mlflow_access import Access

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["artifact_root", "connect", "conversation", "experiment", "tracking_uri", "ui_command"]

_log = logging.getLogger(__name__)

#: Answers that another try will not change.
_FINAL = frozenset(
    {
        "BAD_REQUEST",
        "ENDPOINT_NOT_FOUND",
        "FEATURE_DISABLED",
        "INVALID_PARAMETER_VALUE",
        "NOT_IMPLEMENTED",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
    }
)
#: Tracking follows a run and can try again itself, so that MLflow's own patience (seven tries of
#: two minutes) is cut; nothing is told to anybody else; what is set already is left alone.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_UV_AUTO_DETECT": "false",
}


def tracking_uri(params: Params, workspace: Path) -> str:
    """``tracking.uri``, the server of ``coordinator/mlflow.toml``, or a file of the workspace."""
    if params.tracking.uri is not None:
        return params.tracking.uri
    access = Access.load(workspace)
    if access is not None:
        return access.uri
    return f"sqlite:///{workspace.resolve() / 'coordinator' / 'mlflow.db'}"


def artifact_root(params: Params, workspace: Path) -> str | None:
    """Folder for artefacts beside the default SQLite file; None where a server decides."""
    if params.tracking.uri is not None or Access.load(workspace) is not None:
        return None
    return (workspace.resolve() / "coordinator" / "mlartifacts").as_uri()


def ui_command(params: Params, workspace: Path, *, port: int = 5000) -> list[str]:
    """Command that serves MLflow's UI for this installation on loopback.

    Raises
    ------
    ConfigError
        Where ``tracking.uri`` is a server already: it has its own UI at that address.
    """
    uri = tracking_uri(params, workspace)
    if urlsplit(uri).scheme in {"http", "https"}:
        raise ConfigError(
            "config.invalid",
            "Runs are tracked by an MLflow server, which serves its own UI.",
            f"Open {_safe(uri)} in a browser.",
        )
    root = artifact_root(params, workspace)
    return [
        "env",
        "MLFLOW_DISABLE_TELEMETRY=true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--backend-store-uri",
        uri,
        *(["--default-artifact-root", root] if root else []),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def connect(params: Params, workspace: Path) -> MlflowClient:
    """Open MLflow, making the SQLite file on first use (seconds).

    Raises
    ------
    ConfigError
        ``config.installation`` where mlflow is not installed.
    """
    uri = tracking_uri(params, workspace)
    access = Access.load(workspace)
    login = access.variables() if access is not None and access.uri == uri else {}
    for name, value in {**_ENVIRONMENT, **login}.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on import, mlflow warns of its own type hints
            import mlflow.pyfunc
    except ImportError:
        raise ConfigError(
            "config.installation",
            "mlflow is not installed.",
            "Install folkmoot[coordinator], or set tracking.enabled to false.",
        ) from None
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        _reachable(Path(uri.removeprefix("sqlite:///")))
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment(client: MlflowClient, params: Params, workspace: Path) -> str:
    """Id of the federation's experiment, made on first use and restored where it was deleted."""
    from mlflow.exceptions import MlflowException

    name = params.federation.name
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            root = artifact_root(params, workspace)
            location = f"{root}/{name}" if root else None
            # Else MLflow's UI takes it for an experiment with language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=kind))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


@contextmanager
def conversation(params: Params, workspace: Path) -> Iterator[None]:
    """One process at a time; what MLflow raises becomes an error with a remedy.

    Raises
    ------
    TransientError
        ``transient.tracking`` where MLflow does not answer or its database is locked;
        ``transient.disk-full``.
    ConfigError
        Where it refuses for good: wrong address, no rights, an old server.
    """
    where = _safe(tracking_uri(params, workspace))
    folder = workspace / "coordinator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "tracking.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except FolkmootError:
        raise
    except Exception as error:
        translated = _translate(error, where)
        if translated is None:
            raise
        _log.debug("MLflow at %s", where, exc_info=error)
        raise translated from None


def _translate(error: Exception, where: str) -> FolkmootError | None:
    """What an exception of MLflow, its database or its artefact store means, or None."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransientError(
            "transient.disk-full",
            f"No space is left for MLflow at {where}.",
            "Free space and run the same command again: tracking catches up.",
        )
    code = getattr(error, "error_code", None)
    if code in _FINAL:
        return ConfigError(
            "config.invalid",
            f"MLflow at {where} refuses ({code}).",
            "Check tracking.uri, tracking.model_name, the login (coordinator/mlflow.toml or the "
            "environment) and the server's version.",
        )
    if code is not None or isinstance(error, OSError) or _of(error, "sqlalchemy", "sqlite3"):
        return TransientError(
            "transient.tracking",
            f"MLflow at {where} did not answer ({code or type(error).__name__}).",
            "Check tracking.uri and that the server runs; rounds go on, and running the same "
            "command again makes tracking catch up.",
        )
    return None


def _of(error: Exception, *packages: str) -> bool:
    return any(kind.__module__.split(".")[0] in packages for kind in type(error).__mro__)


def _reachable(database: Path) -> None:
    """Fail at once where MLflow would try for a minute."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.open("ab"):
        pass


def _safe(uri: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return uri.split("?")[0]
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
