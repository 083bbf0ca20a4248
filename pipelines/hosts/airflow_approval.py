"""Where a person decides, as tasks of Airflow's human-in-the-loop operators.

``consent.<site>`` asks for a steward's consent before a site's first round in a federation and contract;
``approve`` asks before a model becomes champion.  What was decided is kept beside the runs
(``coordinator/approvals.json``), so that nobody is asked twice.  The site's own, signed consent is
another matter: the site holds its runs to it, whatever was clicked here (``site_tasks.consent``).

This module is imported where params ask for a person alone: its operators load a provider.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from folkmoot.plan import RunContext, keys
from folkmoot.privacy.events import EXACT
from pipelines.hosts.airflow_project import Project, ProjectTask

__all__ = ["ApproveChampion", "AskConsent", "approvals"]


def approvals(workspace: Path) -> dict[str, dict[str, str]]:
    """What people have decided: site and digests → who, when."""
    path = workspace / "coordinator" / "approvals.json"
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _remember(workspace: Path, key: str, by: str) -> None:
    path = workspace / "coordinator" / "approvals.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = approvals(workspace)
        known[key] = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(part, path)


class _Ask(ApprovalOperator):  # type: ignore[misc]
    """Ask unless it was answered; what is asked comes from the run."""

    template_fields = ()

    def __init__(self, *, project: Project, **arguments: Any) -> None:
        wanted = project.params.approval
        super().__init__(
            defaults=self.REJECT,
            response_timeout=timedelta(hours=wanted.hours),
            assigned_users=[{"id": name, "name": name} for name in wanted.approvers] or None,
            **arguments,
        )
        self.project = project

    def opened(self, context: Any) -> RunContext:
        """The run."""
        return self.project.context(ProjectTask.run(self, context))

    def asked(self, run: RunContext) -> str | None:
        """What is asked (Markdown), or None where no answer is needed."""
        raise NotImplementedError

    def answered(self, run: RunContext, approved: bool, by: str) -> None:
        """Keep the answer."""
        raise NotImplementedError

    def execute(self, context: Any) -> Any:
        """Ask and wait, or go on."""
        with self.project.folder():
            body = self.asked(self.opened(context))
        if body is None:
            self.log.info("Nobody has to be asked.")
            return None
        self.body = body
        return super().execute(context)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Keep the answer; a rejection skips what follows."""
        chosen = event.get("chosen_options") or []
        user = event.get("responded_by_user") or {}
        by = str(user.get("name") or user.get("id") or "nobody in time")[:200]
        with self.project.folder():
            if chosen and not event.get("timedout"):  # silence is no answer: it may come later
                self.answered(self.opened(context), chosen[0] == self.APPROVE, by)
        super().execute_complete(context=context, event=event)
        # Times and form come with the answer: XCom gets no more than it needs.
        return {"approved": bool(chosen) and chosen[0] == self.APPROVE}


class AskConsent(_Ask):
    """Before a site's first round in a federation and contract."""

    def __init__(self, *, site: str, **arguments: Any) -> None:
        super().__init__(subject=f"Does {site} take part?", **arguments)
        self.site = site

    def _key(self, run: RunContext) -> str:
        known = run.roster.keys.get(self.site, "")
        return f"consent/{self.site}/{known[:16]}/{run.federation}/{run.contract.digest()}"

    def asked(self, run: RunContext) -> str | None:
        """What the run wants of the site; None where it consented before."""
        if self._key(run) in approvals(run.workspace):
            return None
        params, digest = run.params, run.contract.digest()
        private = params.privacy.mechanism
        lines = {
            "Federation": f"{run.federation}: {', '.join(params.federation.members)}",
            "Requester": params.federation.requester,
            "Data contract": f"{run.contract.name} `{digest[:12]}`",
            "Columns": ", ".join(column.name for column in run.contract.inputs),
            "Model": f"{params.kind}, at most {params.rounds} rounds",
            "Privacy": private if private in EXACT else f"{private}, ε {params.privacy.epsilon:g}",
            "Protection of updates": params.aggregation.protection,
        }
        table = "\n".join(f"| {name} | {text} |" for name, text in lines.items())
        return (
            f"| What | Asked of {self.site} |\n|---|---|\n{table}\n\n"
            "Whoever answers speaks for the site's steward. The site itself holds its runs to the "
            f"steward's signed record, which is made there:\n\n"
            f"`folkmoot site consent {self.site} {run.federation} --contract {digest}`"
        )

    def answered(self, run: RunContext, approved: bool, by: str) -> None:
        """A yes is kept; after a no the next run asks again."""
        if approved:
            _remember(run.workspace, self._key(run), by)


class ApproveChampion(_Ask):
    """Before the run's model becomes champion."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(subject="Does this model become champion?", **arguments)

    def asked(self, run: RunContext) -> str | None:
        """Model, metrics and privacy; None where the verdict leaves nothing to decide."""
        from pipelines.conclusion import run_folder
        from pipelines.coordinator.open_round import load_json
        from pipelines.coordinator.registry import WAITS

        path = run_folder(run) / "registered.json"
        registered = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        reason = str(registered.get("reason", ""))
        if not reason.startswith(WAITS):
            self.log.info("The verdict: %s", reason or "not registered")
            return None
        result = load_json(run, keys.RESULT) or {}
        metrics = (result.get("metrics") or {}).get("overall", {})
        rows = "\n".join(
            f"| {name} | {value:.4g} |"
            for name, value in sorted(metrics.items())
            if isinstance(value, float)
        )
        return (
            f"**{registered['name']}**, version {registered['version']}, of run `{run.run}`.\n\n"
            f"{reason.removeprefix(WAITS).capitalize()}.\n\n"
            f"| Metric on all sites' held-out rows | |\n|---|---|\n{rows}\n"
        )

    def answered(self, run: RunContext, approved: bool, by: str) -> None:
        """Settle the aliases."""
        from pipelines.conclusion import decide

        done = decide(run, approved, by)
        self.log.info("%s version %s: %s", done["name"], done["version"], done["reason"])
