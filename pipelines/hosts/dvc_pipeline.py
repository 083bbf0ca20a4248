"""A DVC pipeline rendered from a plan: one stage per step that DVC should be able to skip.

Every stage names the settings that influence it and no others.  The number of rounds influences
none of the rounds, so that one more round runs that round alone, the evaluation and the report.
What the stages publish in the exchange store are DVC's outputs: DVC keeps them in its cache, and
removes them before a stage runs again, so that put-if-absent never meets an older version.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.identity.orders import signature_key
from folkmoot.plan import keys
from folkmoot.sections import load_yaml

if TYPE_CHECKING:
    from pipelines.hosts.dvc_project import Project

__all__ = ["PLOTTED", "Pipeline"]

#: Metrics that are drawn over the rounds, by task; the first one also per site.
PLOTTED = {
    "binary": ("auc", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "r2"),
}
_SITES = ("federation.name", "federation.sites", "data.recipe", "data.path", "data.contract")
_DEALT = ("data.partition", "data.rows", "data.columns", "data.seed")
_PREPARED = (
    "aggregation.protection",
    "anonymisation",
    "data.holdout",
    "data.precision",
    "data.scaling",
    "model.kind",
)
#: What a set-up of secure sums is bound to.
_SETUP = ("data", "anonymisation", "model", "privacy", "aggregation", "federation.quorum")
_RUN = (
    "federation",
    "data",
    "anonymisation",
    "model",
    "privacy",
    "aggregation",
    "tracking",
)


class Pipeline:
    """Stages and plots of a project's ``dvc.yaml``.

    Parameters
    ----------
    project : Project
        Its folder, params and plan.
    """

    def __init__(self, project: Project) -> None:
        self.project, self.params, self.plan = project, project.params, project.plan

    def stages(self) -> dict[str, Any]:
        """All stages by name, in the order of the plan."""
        plan, sites = self.plan, self.plan.sites
        contract, roster = self.project.state / "contract.json", self.project.state / "roster.json"
        statistics = [self.project.stored(keys.statistics(site)) for site in sites]
        source = [
            self.project.directory / p
            for p in (self.params.data.path, self.params.data.contract)
            if p
        ]
        stages = {
            "sites": self._stage(
                "sites",
                "make the sites of a recipe, or find the federation's own",
                source,
                (*_SITES, *_DEALT),
                [contract, roster],
                kept=True,
            )
        }
        agreed = self.params.anonymisation.recoding == "agreed"
        if agreed:
            stages.update(self._agreement([contract, roster]))
        for site in sites:
            stages.update(self._preparation(site, contract))
        first: tuple[str, ...] = (
            "data.scaling",
            "federation.quorum",
            *self._training(initial=True),
        )
        needed = [*statistics, contract, roster]
        made = [
            self.project.stored(keys.model(0)),
            self.project.stored(signature_key(keys.model(0))),
        ]
        if self.params.aggregation.masked:
            # One set-up serves one course of rounds: whatever changes a round needs a new one.  It is
            # made here, or by `settle` where levels are settled on under masks.
            first = (*_SETUP, *self._asked())
            (needed if agreed else made).append(self.project.stored(keys.SECURE_KEYS).parent)
        stages["initialise"] = self._stage(
            "initialise", "initial global model", needed, first, made
        )
        settings = (
            "data.scaling",
            "federation.quorum",
            "privacy",
            "aggregation",
            *self._training(),
            *self._asked(),
        )
        rounds = [
            self.project.stored(keys.model(round)).parent for round in range(1, plan.rounds + 1)
        ]
        for round in range(1, plan.rounds + 1):
            before = rounds[round - 2] if round > 1 else self.project.stored(keys.model(0))
            stages[f"round-{round:03d}"] = self._stage(
                f"round {round}",
                f"round {round}: train at the sites, aggregate",
                [before],
                settings,
                [rounds[round - 1]],
            )
        opened = [self.project.stored(keys.RUN), self.project.stored(signature_key(keys.RUN))]
        outcome = [*opened, self.project.stored(keys.RESULT).parent]
        stages["evaluate"] = self._stage(
            "evaluate",
            "evaluate the last global model at the sites, conclude the run",
            [*rounds, contract, roster],
            (*_RUN, *self._asked()),
            outcome,
        )
        tables = [
            self.project.report / name for name in ("metrics.json", "rounds.csv", "sites.csv")
        ]
        stages["report"] = self._stage(
            "report", "metrics and plots for DVC", [*outcome, *rounds], (), tables, plain=True
        )
        stages["publish"] = self._stage(
            "publish",
            "model file, baselines, MLflow run and registered model",
            outcome,
            ("tracking",),
            [self.project.report / "model.json"],
            plain=True,
        )
        return stages

    def _preparation(self, site: str, contract: Path) -> dict[str, Any]:
        """A site's rows up to arrays and statistics; anonymising is a stage of its own.

        Tables stay in the site's private folder.  What DVC follows of them is a keyed name that
        changes with them, and what it skips costs nothing.
        """
        home, chosen = self.project.workspace / "sites" / site, self.params.anonymisation
        deps = [home / "data" / "dataset.version", home / "public.toml", contract]
        if chosen.recoding == "agreed":
            deps.append(self.project.stored(keys.SCHEMA))
        before = [] if chosen.recoding == "agreed" else ["version", "validate"]
        stages: dict[str, Any] = {}
        if chosen.active and not self.params.statistics.active:
            done = self.project.state / "anonymised" / f"{site}.json"
            stages[f"anonymise-{site}"] = self._stage(
                f"anonymise {site}",
                f"{site}: {', '.join([*before, 'recode', 'verify', 'report'])}",
                deps,
                ("anonymisation", "privacy.mechanism"),
                [done],
                plain=True,
            )
            deps, before = [*deps, done], []
        else:
            before.append("anonymise")
        stages[f"prepare-{site}"] = self._stage(
            f"prepare {site}",
            f"{site}: {', '.join([*before, 'encode'])}",
            deps,
            (*_PREPARED, "privacy.mechanism", *self._asked()),
            [self.project.stored(keys.statistics(site))],
        )
        return stages

    def _agreement(self, public: list[Path]) -> dict[str, Any]:
        """A stage per site that says which levels it could live with, and one that settles."""
        stages: dict[str, Any] = {}
        if self.params.aggregation.masked:
            return {"settle": self._settled_by_sums(public)}
        said = {site: self.project.stored(keys.agreement(site)) for site in self.plan.sites}
        for site, file in said.items():
            home = self.project.workspace / "sites" / site
            stages[f"agree-{site}"] = self._stage(
                f"agree {site}",
                f"{site}: version, validate, levels it could live with",
                [home / "data" / "dataset.version", home / "public.toml", public[0]],
                ("anonymisation", "privacy.mechanism"),
                [file],
            )
        stages["settle"] = self._stage(
            "settle",
            "one schema: the levels of least summed loss that all sites satisfy",
            [*said.values(), *public],
            ("anonymisation", "federation.quorum"),
            self._schema(),
        )
        return stages

    def _settled_by_sums(self, public: list[Path]) -> dict[str, Any]:
        """Under masks one stage: whatever changes what a site says needs a new set-up for all."""
        homes = [self.project.workspace / "sites" / site for site in self.plan.sites]
        watched = [h / name for h in homes for name in ("data/dataset.version", "public.toml")]
        return self._stage(
            "settle",
            "set-up of secure sums; one schema: the levels of least summed loss",
            [*watched, *public],
            _SETUP,
            [*self._schema(), self.project.stored(keys.SECURE_KEYS).parent],
        )

    def _schema(self) -> list[Path]:
        return [self.project.stored(keys.SCHEMA), self.project.stored(signature_key(keys.SCHEMA))]

    def _stage(
        self,
        command: str,
        description: str,
        deps: Iterable[Path],
        params: Iterable[str],
        outs: Iterable[Path],
        *,
        kept: bool = False,
        plain: bool = False,
    ) -> dict[str, Any]:
        """One stage; ``kept`` outputs stay when it runs again, ``plain`` ones belong to git."""
        # Finds the project's own environment where nobody activated it.
        prefix = "" if self.project.apart else "PATH=.venv/bin:$PATH "
        stage: dict[str, Any] = {
            "cmd": f"{prefix}python -m pipelines.hosts.dvc {command}",
            "desc": description,
        }
        if found := [self._path(path) for path in deps]:
            stage["deps"] = found
        if present := self._present(params):
            stage["params"] = present
        options = {"cache": False, "persist": True} if kept else {"cache": False} if plain else None
        stage["outs"] = [
            {self._path(path): dict(options)} if options else self._path(path) for path in outs
        ]
        return stage

    def _path(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.project.folder)).as_posix()

    def _training(self, *, initial: bool = False) -> list[str]:
        """Settings of the model that influence a round: not the number of rounds."""
        kind = self.params.model.kind
        if initial and kind == "linear":
            return ["model.kind", "model.linear.strategy"]
        names = type(self.params.model.chosen).model_fields
        skipped = {"rounds", "early_stopping"} if initial else {"rounds"}
        return ["model.kind", *(f"model.{kind}.{name}" for name in names if name not in skipped)]

    def _asked(self) -> tuple[str, ...]:
        """Settings of a run of statistics, which no training depends on."""
        return ("statistics",) if self.params.statistics.active else ()

    def _present(self, names: Iterable[str]) -> list[str]:
        """Those that stand in the file: DVC refuses to watch a setting left to its default."""
        return [name for name in names if _holds(self._file, name)]

    @cached_property
    def _file(self) -> dict[str, Any]:
        return load_yaml(self.project.folder / "params.yaml")

    def plots(self) -> list[dict[str, Any]]:
        """Plots of the report; none for a run of statistics."""
        if self.params.statistics.active:
            return []  # figures stand in report/metrics.json
        primary, second = PLOTTED[self.project.contract.task]
        plots = [
            _plot(f"{primary} over rounds", "report/rounds.csv", [primary]),
            _plot(f"{second} over rounds", "report/rounds.csv", [second]),
            _plot(f"{primary} per site", "report/sites.csv", list(self.plan.sites)),
        ]
        if self.params.privacy.mechanism in {"gaussian", "diffprivlib"}:
            plots.append(_plot("epsilon over rounds", "report/rounds.csv", ["epsilon"]))
        return plots


def _plot(title: str, file: str, columns: list[str]) -> dict[str, Any]:
    value = title.split(" ")[0]
    return {title: {"x": "round", "y": {file: columns}, "title": title, "y_label": value}}


def _holds(values: Mapping[str, Any], name: str) -> bool:
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
