"""Checks of an installation and of the coordinator's side; used by ``folkmoot doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from folkmoot.findings import Finding, found
from folkmoot.identity import Roster, load_key, public_text
from folkmoot.params import Params

__all__ = ["check_coordinator", "check_installation"]

_LEAST_SPACE = 1 << 30


def check_installation(extras: tuple[str, ...]) -> Iterator[Finding]:
    """Python, the packages of the ``extras``, git.

    Yields
    ------
    Finding
    """
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "fault", f"{version} is not 3.11", "Install Python 3.11.")
    for extra in ("", *extras):
        yield _packages(extra)
    git = shutil.which("git")
    if git is None:
        yield Finding("git", "fault", "The command git is not installed.", "Install git.")
    else:
        yield Finding("git", "ok", git)


def check_coordinator(params: Params, workspace: Path) -> Iterator[Finding]:
    """Contract and plan, workspace, roster, exchange store, MLflow, Airflow.

    Yields
    ------
    Finding
    """
    yield found("contract and plan", lambda: _plan(params))
    yield _workspace(workspace)
    yield found("roster", lambda: _roster(params, workspace))
    yield found("exchange store", lambda: _exchange(params, workspace))
    yield _tracking(params, workspace)
    yield _airflow(workspace)


def _packages(extra: str) -> Finding:
    """Whether what the distribution declares for an extra is installed, in its version."""
    what = f"packages ({extra})" if extra else "packages"
    remedy = f"In the checkout: uv pip install -e '.[{extra}]'" if extra else "uv pip install -e ."
    declared = _declared(extra)
    if declared is None:
        return Finding(what, "warning", "What Folkmoot needs is declared nowhere here.", remedy)
    try:
        from packaging.requirements import Requirement
    except ImportError:  # every extra brings it
        return Finding(what, "fault", "packaging is not installed", remedy)

    faults = []
    for requirement in map(Requirement, declared):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            faults.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if faults:
        return Finding(what, "fault", "; ".join(faults), remedy)
    return Finding(what, "ok", f"{len(declared)} as declared")


def _declared(extra: str) -> list[str] | None:
    """Requirements of an extra: of the installed distribution, else of the checkout's pyproject."""
    try:
        every = importlib.metadata.requires("folkmoot") or []
        mark = f"extra == '{extra}'"
        plain = [text.replace('"', "'") for text in every]
        return [text for text in plain if (mark in text if extra else "extra ==" not in text)]
    except importlib.metadata.PackageNotFoundError:
        pass
    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if not pyproject.is_file():
        return None
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return found


def _plan(params: Params) -> str:
    from pipelines.plans import plan_of
    from pipelines.recipes import contract_of

    contract = contract_of(params.data)
    plan = plan_of(params, contract)
    return f"contract {contract.name}, {len(plan.steps)} steps, at most {plan.rounds} rounds"


def _workspace(workspace: Path) -> Finding:
    what = "workspace"
    folder = workspace.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding(
            what,
            "fault",
            f"{folder} cannot be written.",
            "Change its mode or federation.workspace.",
        )
    free = shutil.disk_usage(folder).free
    if free < _LEAST_SPACE:
        return Finding(
            what, "warning", f"{free >> 20} MiB are free at {folder}.", "Free some space."
        )
    return Finding(what, "ok", f"{workspace}, {free >> 30} GiB free")


def _roster(params: Params, workspace: Path) -> Finding | str:
    roster = Roster.load(workspace / "roster.toml")
    if not roster.keys:
        return Finding(
            "roster",
            "warning",
            "No site is enrolled yet.",
            "folkmoot data make for a recipe, folkmoot site enrol for real sites",
        )
    for site in params.federation.members:
        roster.key(site)
    own = workspace / "coordinator" / "signing.key"
    if roster.coordinator is not None and (
        not own.exists() or public_text(load_key(own)) != roster.coordinator
    ):
        return Finding(
            "roster",
            "fault",
            "It names another coordinator's key than this one's: sites refuse what that did not sign.",
            "Restore coordinator/signing.key from its backup. Where it is lost: folkmoot site enrol "
            "once more, then let every member sign and accept the roster.",
        )
    return f"{len(params.federation.members)} sites of {params.federation.name} are enrolled"


def _exchange(params: Params, workspace: Path) -> str:
    from pipelines.hosts.execute import store_of

    store = store_of(params, workspace)
    store.list(params.federation.name)
    return f"{_without_password(store.url)} answers"


def _tracking(params: Params, workspace: Path) -> Finding:
    what, uri = "MLflow", params.tracking.uri
    if not params.tracking.enabled:
        return Finding(what, "skipped", "tracking.enabled is false")
    own = found(what, lambda: _login(workspace))
    if own.state == "fault":
        return own
    if uri is None and own.detail:
        return Finding(what, "ok", f"{own.detail}, as coordinator/mlflow.toml says")
    if uri is None or urlsplit(uri).scheme not in {"http", "https"}:
        return Finding(
            what, "ok", "SQLite file of the workspace" if uri is None else "a local file"
        )
    import httpx

    shown = _without_password(uri)
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=5)
        good = answer.status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        good = False
    if good:
        return Finding(what, "ok", f"{shown} answers")
    return Finding(
        what,
        "warning",
        f"{shown} does not answer; rounds would go on, and tracking catch up later.",
        "Start the server, or correct tracking.uri.",
    )


def _login(workspace: Path) -> str:
    """The server that a login is kept for, or nothing."""
    from pipelines.coordinator.mlflow_access import Access

    access = Access.load(workspace)
    return "" if access is None else _without_password(access.uri)


def _airflow(workspace: Path) -> Finding:
    """Settings of the Airflow that would run the DAGs, from its files and environment alone."""
    what = "Airflow"
    try:
        version = importlib.metadata.version("apache-airflow")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            what, "skipped", "not installed here", "uv pip install -e '.[coordinator]' to use it"
        )
    own = os.environ.get("AIRFLOW_HOME")
    home = Path(own) if own else workspace / "airflow"
    config = home / "airflow.cfg"
    if not config.exists():
        return Finding(what, "ok", f"{version}; make demo or make ui sets it up")
    text = config.read_text(encoding="utf-8", errors="replace")
    examples = os.environ.get("AIRFLOW__CORE__LOAD_EXAMPLES") or _setting(text, "load_examples")
    folder = os.environ.get("AIRFLOW__CORE__DAGS_FOLDER") or _setting(text, "dags_folder")
    if folder and not Path(folder).is_dir():
        return Finding(
            what, "fault", f"{config} names a dags_folder that does not exist.", "Correct it."
        )
    if folder and not any(Path(folder).glob("federated_*.py")):
        return Finding(
            what,
            "warning",
            "The dags_folder holds none of Folkmoot's DAGs.",
            "Point it at the project's dags/ folder, or copy its files there.",
        )
    if examples is not None and examples.lower() == "true":
        return Finding(
            what, "warning", "Airflow's examples are loaded.", "Set core.load_examples to False."
        )
    return Finding(what, "ok", f"{version}, {config}")


def _setting(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*=\s*(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
