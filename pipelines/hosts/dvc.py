"""The DVC host: ``dvc repro`` schedules the plan and skips whatever did not change.

A *project* (a folder with ``params.yaml`` inside a DVC repository) has one run, ``dvc``, which
follows its params: change something, and only what it influences runs again.  Where `folkmoot run`
is given overrides, another file or a name, it makes a pipeline in the workspace instead, and the
run is as final as those of the other hosts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.opening import read_opening
from folkmoot.params import Params, load_params
from folkmoot.plan import keys
from pipelines.coordinator.open_round import run_name
from pipelines.hosts.dvc_project import Project
from pipelines.hosts.dvc_report import kept_run
from pipelines.hosts.dvc_stages import MARK, failure, main
from pipelines.hosts.execute import open_context, store_of
from pipelines.hosts.walk import contract_for

__all__ = ["run"]

_PHASES = {"sites": "set_up"}
_PHASES |= dict.fromkeys(("agree", "settle", "anonymise", "prepare", "initialise"), "preparation")
_PHASES |= {
    "round-001": "first_round",
    "round": "rounds",
    "evaluate": "evaluation",
    "report": "evaluation",
}


def run(
    params: Params,
    *,
    params_file: Path | None = None,
    run: str | None = None,
    workspace: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Render ``dvc.yaml``, let DVC reproduce it, return the outcome.

    Parameters
    ----------
    params : Params
        Typed params.
    params_file : Path, optional
        Where they come from.  The current folder's ``params.yaml`` without overrides is a project;
        anything else runs in ``<workspace>/pipelines/<federation>-<run>``.
    run : str, optional
        Name of the run; the project's own, or as the embedded host names it.
    workspace : Path, optional
        Instead of ``federation.workspace``.
    say : callable
        Told what goes on.

    Returns
    -------
    dict
        The run's ``result.json`` with ``seconds`` (set-up, preparation, rounds, evaluation).

    Raises
    ------
    FolkmootError
        As the stage that failed; ``transient.locked`` where another ``dvc`` command is running.
    """
    own = run is None and workspace is None and _is_project(params, params_file)
    if own:
        project = Project.beside(Path("params.yaml"))
    else:
        project = _make_project(params, run, workspace or Path(params.federation.workspace))
    project.render()
    seconds = _reproduce(project, say)
    store = ExchangeStore(project.exchange)
    if own:
        context = open_context(project.run, params.federation.name, store, project.workspace)
        return {**kept_run(context), "seconds": seconds}
    return {**_deliver(project, store_of(params, project.workspace)), "seconds": seconds}


def _is_project(params: Params, params_file: Path | None) -> bool:
    """Whether the current folder's own pipeline is meant."""
    if params_file is None or params_file.absolute() != Path("params.yaml").absolute():
        return False
    here = Path.cwd()
    inside = any((folder / ".dvc").is_dir() for folder in (here, *here.parents))
    return inside and load_params(params_file) == params


def _make_project(params: Params, run: str | None, workspace: Path) -> Project:
    """A pipeline in the workspace: a DVC repository of its own, without git."""
    root = workspace.absolute()
    store = store_of(params, root)
    roster = Roster.load(root / "roster.toml")
    name = run or run_name(params, contract_for(params), roster, store)
    opened = store.find(f"{params.federation.name}/runs/{name}/{keys.RUN}")
    if opened is not None and read_opening(opened, name, params.federation.name)[0] != params:
        raise ProtocolError(
            "protocol.conflict",
            f"Run {name} of federation {params.federation.name} was opened with other params.",
            "Give the run another name, or repeat it with its own params.",
        )
    folder = root / "pipelines" / f"{params.federation.name}-{name}"
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    _write(folder / ".dvc" / "config", "[core]\n    no_scm = True\n    analytics = false\n")
    host = {"directory": str(Path.cwd()), "workspace": str(root), "run": name}
    _write(folder / "host.json", json.dumps(host))
    settings = params.model_dump(mode="json")
    _write(folder / "params.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return Project.beside(folder / "params.yaml")


def _deliver(project: Project, store: ExchangeStore) -> dict[str, Any]:
    """Publish what the pipeline made in the federation's exchange store; returns the result."""
    root = project.stored("")
    prefix = f"{project.params.federation.name}/runs/{project.run}"
    files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
    last = root / keys.RESULT
    for path in sorted(files, key=lambda path: (path == last, path)):
        store.put(f"{prefix}/{path.relative_to(root).as_posix()}", path.read_bytes())
    result: dict[str, Any] = json.loads(last.read_bytes())
    return result


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _reproduce(project: Project, say: Callable[[str], None]) -> dict[str, float]:
    """``dvc repro`` up to the report; returns seconds per phase."""
    failure(project)  # forget the error of an earlier run
    say(f"dvc repro in {project.folder}")
    laps = dict.fromkeys(("set_up", "preparation", "first_round", "rounds", "evaluation"), 0.0)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "report"],
        cwd=project.folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    phase, since, faults, skipped = "set_up", time.perf_counter(), [], 0
    for line in process.stdout or ():
        stage = line.removeprefix("Running stage '").partition("'")[0]
        if line.startswith("Running stage '"):
            now = time.perf_counter()
            laps[phase] += now - since
            phase, since = _PHASES[stage if stage in _PHASES else stage.partition("-")[0]], now
        elif line.startswith(MARK):
            say(line.removeprefix(MARK).rstrip())
        elif line.startswith("ERROR: "):
            faults.append(line.removeprefix("ERROR: ").strip())
        skipped += "didn't change, skipping" in line
    code = process.wait()
    laps[phase] += time.perf_counter() - since
    if code != 0:
        raise failure(project) or _fault(project, faults)
    if skipped:
        say(f"{skipped} stages did not change and were skipped")
    return {name: round(value, 4) for name, value in laps.items()}


def _environment() -> dict[str, str]:
    """The stages call ``python``: it must be this one, and find these packages."""
    packages = str(Path(__file__).resolve().parents[2])
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": packages}
    joined = {k: os.pathsep.join(filter(None, (v, os.environ.get(k)))) for k, v in paths.items()}
    return {**os.environ, **joined, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


def _fault(project: Project, faults: list[str]) -> ConfigError | TransientError:
    said = faults[0] if faults else "it gave no reason"
    if "lock" in said.lower():
        return TransientError(
            "transient.locked",
            f"Another dvc command is running in {project.folder}.",
            "Wait until it ends and start again.",
        )
    return ConfigError(
        "config.installation",
        f"DVC could not run the pipeline in {project.folder}: {said}.",
        "Run `dvc repro -v` there to see more.",
    )


if __name__ == "__main__":
    sys.exit(main())
