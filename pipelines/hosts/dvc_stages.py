"""What the stages of ``dvc.yaml`` call: each executes the plan's steps that belong to it.

``python -m pipelines.hosts.dvc round 3`` ends with the exit code of the error's family, and leaves
the error beside the run, so that `folkmoot run --host dvc` can raise it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from folkmoot import errors
from folkmoot.agreement import settled
from folkmoot.errors import DataError, FolkmootError
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import RunContext, keys
from folkmoot.wire import canonical_json
from pipelines.coordinator import lock
from pipelines.coordinator.open_round import load_json, open_run
from pipelines.hosts.dvc_project import Project
from pipelines.hosts.embedded import Progress, Walk
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import ending, last_round, record, roster_for

__all__ = ["MARK", "failure", "main"]

#: Begins the lines that are for people; DVC's own stand beside them on the same output.
MARK = "· "
#: Key, relative to the run, that says why a round has no model.
_PASSED = "round-{:03d}/passed.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage of the project in the current folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.hosts.dvc", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name in ("sites", "initialise", "evaluate", "report", "publish"):
        stages.add_parser(name)
    stages.add_parser("agree").add_argument("of")
    stages.add_parser("settle")
    stages.add_parser("anonymise").add_argument("of")
    stages.add_parser("prepare").add_argument("of")
    stages.add_parser("round").add_argument("of", type=int)
    chosen = parser.parse_args(arguments)
    project = None
    try:
        project = Project.beside(Path("params.yaml"))
        project.require_fresh()
        os.chdir(project.directory)
        _stage(project, chosen.stage, getattr(chosen, "of", None))
    except FolkmootError as error:
        if project is not None:
            _note(project, error)
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def failure(project: Project) -> FolkmootError | None:
    """The error that a stage ended with, taken away so that it is raised once."""
    path = project.state / "error.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
    except (OSError, ValueError):
        return None
    family = str(values["code"]).partition(".")[0].capitalize()
    kind: type[FolkmootError] = getattr(errors, f"{family}Error")
    return kind(values["code"], values["message"], values["remedy"], site=values["site"])


def _note(project: Project, error: FolkmootError) -> None:
    _write(project.state / "error.json", {**error.crossing(), "site": error.site})


def _say(message: str) -> None:
    print(f"{MARK}{message}", flush=True)


def _stage(project: Project, name: str, of: Any) -> None:
    if name == "report":
        from pipelines.hosts.dvc_report import write_report

        _forget_later_rounds(project)  # not in `evaluate`: DVC may take that one from its cache
        return write_report(_context(project), project.report)
    if name == "publish":
        return _publish(project)
    if name == "sites":
        return _sites(project)
    bodies: dict[str, Callable[[], None]] = {
        "agree": lambda: _agree(project, str(of)),
        "settle": lambda: _settle(project),
        "anonymise": lambda: _anonymise(project, str(of)),
        "prepare": lambda: _prepare(project, str(of)),
        "initialise": lambda: _initialise(project),
        "round": lambda: _round(project, of),
        "evaluate": lambda: _evaluate(project),
    }
    federation = project.params.federation
    patience = 2.0 * federation.deadline_seconds
    lock.acquire(project.workspace, federation.name, project.run, "dvc", patience)
    try:
        return bodies[name]()
    finally:
        lock.release(project.workspace, federation.name, project.run)


def _context(project: Project) -> RunContext:
    """As `open_run` makes it; the run is opened (``run.json``) when it is concluded.

    ``run.json`` holds all settings, so it would differ with every change: rounds must not depend
    on it.
    """
    from site_tasks.orders import take_for_given

    roster = roster_for(project.workspace)
    keep = {site: roster.keys[site] for site in project.plan.sites if site in roster.keys}
    context = RunContext(
        project.run,
        project.params,
        project.contract,
        replace(roster, keys=keep),
        ExchangeStore(project.exchange),
        project.workspace,
    )
    take_for_given(context)
    return context


def _sites(project: Project) -> None:
    from pipelines.hosts.walk import ensure_members
    from site_tasks.dataset import note_version
    from site_tasks.home import SiteHome

    ensure_members(project.params, project.workspace, _say)
    roster = roster_for(project.workspace)
    members = {site: roster.keys.get(site) for site in project.plan.sites}
    for site in project.plan.sites:
        roster.key(site)
        note_version(SiteHome.find(site, project.workspace))
    _write(project.state / "contract.json", project.contract.model_dump(mode="json"))
    _write(project.state / "roster.json", members)
    _say(f"{len(members)} sites, contract {project.contract.name}")


def _agree(project: Project, site: str) -> None:
    context = _context(project)
    for step in project.plan.stage("agree/"):
        if step.place == site:
            execute(step, context)
    _say(f"{site} said which levels it could live with")


def _settle(project: Project) -> None:
    context = _context(project)
    if project.params.aggregation.masked:
        _sum_up(project, context)
    else:
        execute(project.plan.step("agree/settle"), context)
    levels = (load_json(context, keys.SCHEMA) or {})["levels"]
    _say(f"Levels: {', '.join(f'{name} {level}' for name, level in levels.items())}")


def _sum_up(project: Project, context: RunContext) -> None:
    """Everything up to the agreement, with a new set-up of the secure sums."""
    shutil.rmtree(project.stored("agree"), ignore_errors=True)
    for site in project.plan.sites:
        project.stored(keys.agreement(site)).unlink(missing_ok=True)
    walk = Walk(project.plan, context, Progress(say=_say))
    for step in project.plan.opening():
        if step.name.startswith(("agree/", "setup/")):
            walk.do(step)


def _anonymise(project: Project, site: str) -> None:
    """All steps up to the risk report; DVC follows a keyed name of the table that came of them."""
    from site_tasks.home import SiteHome
    from site_tasks.prepare import anonymised_name

    context = _context(project)
    for step in project.plan.stage("prepare/"):
        if step.place == site and step.body != "site.encode":
            execute(step, context)
    name = anonymised_name(settled(context), SiteHome.find(site, context.workspace))
    _write(project.state / "anonymised" / f"{site}.json", {"table": name})
    _say(f"{site} is anonymised, and its table proven")


def _prepare(project: Project, site: str) -> None:
    """The steps that are left; those of `_anonymise` again where DVC took its result for done.

    They find what they made, unless DVC brought back an older version.
    """
    context = _context(project)
    for step in project.plan.stage("prepare/"):
        if step.place == site:
            execute(step, context)
    _say(f"{site} is prepared")


def _initialise(project: Project) -> None:
    context = _context(project)
    if not project.params.aggregation.masked:
        execute(project.plan.step("round-000/initialise"), context)
        return
    # Sums of an earlier set-up are none of this one's.
    for path in project.stored("round-000").glob("*"):
        if path.name == "survivors.json" or path.name.startswith(
            ("masked-", "statement-", "answer-")
        ):
            path.unlink()
    walk = Walk(project.plan, context, Progress(say=_say))
    for step in project.plan.opening():
        if step.name.startswith(("setup/", "round-000/")):
            walk.do(step)


def _round(project: Project, round: int) -> None:
    context = _context(project)
    before = record(context, round - 1) or load_json(context, _PASSED.format(round - 1)) or {}
    if before.get("stop"):
        ended = before.get("ended", round - 1)
        passed = {"round": round, "ended": ended, "stop": before["stop"], "model": before["model"]}
        context.store.put(context.key(_PASSED.format(round)), canonical_json(passed))
        _say(f"Round {round} passed over: rounds ended after round {ended} ({before['stop']})")
        return
    _same_versions(project, context)
    walk = Walk(project.plan, context, Progress(say=_say))
    walk.through(project.plan.stage(f"round-{round:03d}/"))
    found = record(context, round) or {}
    shown = [f"{k} {v:.4f}" for k, v in (found.get("metrics") or {}).get("overall", {}).items()][:2]
    took = f"{len(found['participants'])} of {len(project.plan.sites)} sites"
    before_it = f"; model of round {round - 1}: {', '.join(shown)}" if shown else ""
    _say(f"Round {round} of {project.plan.rounds}: {took}{before_it}")


def _same_versions(project: Project, context: RunContext) -> None:
    """Make sure that each site trains on the dataset version that its statistics came from.

    DVC may have brought the statistics back from its cache without running the preparation.
    """
    from folkmoot.updates import open_released
    from site_tasks.home import SiteHome
    from site_tasks.prepared import read_json, run_record

    for site in project.plan.sites:
        data = context.store.find(context.key(keys.statistics(site)))
        if data is None:
            continue
        expect = {"run": context.run, "site": site, "step": f"prepare/encode/{site}"}
        dataset = open_released(data, context.roster, expect).meta["dataset"]
        path = run_record(context, SiteHome.find(site, context.workspace))
        for attempt in range(2):
            if (read_json(path) or {}).get("fingerprint") == dataset:
                break
            if attempt:
                raise DataError(
                    "data.version",
                    f"The dataset of site {site} changed while the pipeline ran.",
                    "Run `dvc repro` again: it starts with the new version.",
                    site=site,
                )
            (first,) = (s for s in project.plan if s.body == "site.version" and s.place == site)
            execute(first, context)


def _evaluate(project: Project) -> None:
    context = _context(project)
    context = open_run(
        context.params,
        context.contract,
        context.roster,
        context.run,
        context.store,
        context.workspace,
    )
    last = last_round(context)
    _same_versions(project, context)
    walk = Walk(project.plan, context, Progress(say=_say))
    for step in project.plan.stage("final/"):
        walk.do(ending(step, last))
    result = load_json(context, keys.RESULT) or {}
    overall = result["metrics"].get("overall", {})
    _say(f"After {last} rounds: {', '.join(f'{k} {v:.4f}' for k, v in overall.items())}")


def _forget_later_rounds(project: Project) -> None:
    """Rounds that a longer pipeline left behind; DVC keeps them in its cache."""
    for folder in project.stored("").glob("round-[0-9][0-9][0-9]*"):
        if int(folder.name.removeprefix("round-")) > project.plan.rounds:
            shutil.rmtree(folder)


def _publish(project: Project) -> None:
    from pipelines.conclusion import conclude_locally
    from pipelines.hosts.dvc_report import kept_run

    result = conclude_locally(
        project.params, kept_run(_context(project)), workspace=project.workspace, say=_say
    )
    tracking = project.params.tracking
    if project.params.statistics.active:
        missed = tracking.enabled and result["tracked"] is None
    else:
        missed = tracking.enabled and tracking.register_model and result["registered"] is None
    if missed:
        raise errors.TransientError(
            "transient.tracking",
            "MLflow did not answer; the run itself is complete.",
            "Start MLflow and run `dvc repro` again: only this stage is left.",
        )
    shown = {name: result[name] for name in ("run", "model_digest", "registered")}
    _write(project.report / "model.json", shown)
    if result["registered"]:
        _say(f"Model {result['registered']['name']} version {result['registered']['version']}")


def _write(path: Path, values: Any) -> None:
    """Write JSON for people and for DVC, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
