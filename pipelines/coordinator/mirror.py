"""One training in MLflow: a parent run, a nested run per site, each event logged once.

Everything here can be done again: runs are found by their tags, a round that is in MLflow already
is not logged twice, and files are written over.  So tracking may stop at any line and catch up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from folkmoot.plan import RunContext
from folkmoot.wire import decode
from pipelines.coordinator import mlflow_store, plots, tree_plots
from pipelines.coordinator import statement as privacy_statement
from pipelines.coordinator.mlflow_view import (
    flat_params,
    masked,
    metrics_at,
    record_metrics,
    summary,
)
from pipelines.coordinator.published import Published, risk_summaries

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

__all__ = ["FINGERPRINT", "Mirror"]

#: MLflow keeps 36 characters of a dataset's digest; the whole fingerprint stands in this tag.
FINGERPRINT = "folkmoot.fingerprint"
_DIGEST = 36
#: Epsilon by site and round, which MLflow shows as a table.
BUDGET = "privacy_budget.json"
_BATCH, _METRICS = 100, 1000  # params and metrics that MLflow takes at once


class Mirror:
    """The MLflow side of one run; opened inside ``mlflow_store.conversation``.

    Parameters
    ----------
    context : RunContext
        The run.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.client = mlflow_store.connect(context.params, context.workspace)
        self.experiment = mlflow_store.experiment(self.client, context.params, context.workspace)
        runs = self._find()
        parent = runs.get(None) or self._create(None)
        #: Id of the parent run.
        self.run: str = parent.info.run_id
        self._sites: dict[str, str] = {
            site: run.info.run_id for site, run in runs.items() if site is not None
        }
        self._rounds: dict[str, set[int]] = {}
        self._datasets: dict[str, set[str]] = {}
        self._complete = "folkmoot.plan" in parent.data.tags

    def log(self, found: Published) -> None:
        """Log whatever of ``found`` is not there yet; O(new rounds x sites)."""
        self._settings()
        self._inputs(self.run, found.datasets)
        self._records(None, found.records)
        for site in self.context.params.federation.members:
            own = found.datasets.get(site)
            self._inputs(self._site(site), {site: own} if own else {})
            self._records(site, found.records)
        if found.result is not None:
            self._end(found, found.result)

    def _find(self) -> dict[str | None, Run]:
        """Runs of this training by site; None is the parent."""
        query = f"tags.`folkmoot.run` = '{self.context.run}'"
        runs: dict[str | None, Run] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, page_token=token)
            runs |= {run.data.tags.get("folkmoot.site"): run for run in page}
            token = page.token
            if not token:
                return runs

    def _create(self, site: str | None) -> Run:
        context = self.context
        tags = {
            "folkmoot.run": context.run,
            "folkmoot.federation": context.federation,
            "mlflow.source.name": "folkmoot",
        }
        if site is not None:
            tags |= {"folkmoot.site": site, "mlflow.parentRunId": self.run}
        name = context.run if site is None else site
        return self.client.create_run(self.experiment, tags=tags, run_name=name)

    def _site(self, site: str) -> str:
        if site not in self._sites:
            self._sites[site] = str(self._create(site).info.run_id)
        return self._sites[site]

    def _settings(self) -> None:
        """Params, plan and contract: once, and complete before the tag that says so."""
        if self._complete:
            return
        from mlflow.entities import Param, RunTag

        from pipelines.plans import plan_of

        params, contract = self.context.params, self.context.contract
        values = [Param(key, value) for key, value in flat_params(params.model_dump(mode="json"))]
        for start in range(0, len(values), _BATCH):
            self.client.log_batch(self.run, params=values[start : start + _BATCH])
        plan = plan_of(params, contract)
        steps = [step.to_dict() for step in plan]
        self._text(_yaml(masked(params.model_dump(mode="json"))), "params.yaml")
        self._text(_yaml(contract.model_dump(mode="json", exclude_defaults=True)), "contract.yaml")
        self._text(json.dumps({"digest": plan.digest(), "steps": steps}, indent=1), "plan.json")
        tags = {
            "folkmoot.kind": params.model.kind,
            "folkmoot.strategy": params.model.chosen.strategy,
            "folkmoot.params": params.digest(),
            "folkmoot.contract": f"{contract.name} {contract.version} {contract.digest()}",
            "folkmoot.plan": plan.digest(),
        }
        self.client.log_batch(self.run, tags=[RunTag(*item) for item in tags.items()])
        self._complete = True

    def _inputs(self, run: str, datasets: Mapping[str, list[str]]) -> None:
        """Dataset versions by fingerprint: which site, which version, no data, no location."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if run not in self._datasets:
            there = self.client.get_run(run).inputs.dataset_inputs
            tags = [tag for item in there for tag in item.tags if tag.key == FINGERPRINT]
            self._datasets[run] = {tag.value for tag in tags}
        new = [
            DatasetInput(
                Dataset(
                    name=site,
                    digest=fingerprint[:_DIGEST],
                    source_type="folkmoot-site",
                    source=json.dumps({"site": site, "fingerprint": fingerprint}),
                ),
                [InputTag("mlflow.data.context", "training"), InputTag(FINGERPRINT, fingerprint)],
            )
            for site, fingerprints in datasets.items()
            for fingerprint in fingerprints
            if fingerprint not in self._datasets[run]
        ]
        if new:
            self.client.log_inputs(run, new)
            self._datasets[run] |= {item.tags[1].value for item in new}

    def _records(self, site: str | None, records: Sequence[Mapping[str, Any]]) -> None:
        """Rounds of one run that are not there yet, many in a batch; O(new rounds).

        A round's batch holds the mark (metric ``round``) that it is there.  A record's metrics
        belong to the model that entered the round, so they stand at that model's step.
        """
        run = self.run if site is None else self._site(site)
        if run not in self._rounds:
            history = self.client.get_metric_history(run, "round")
            self._rounds[run] = {metric.step for metric in history}
        batch: list[Metric] = []
        held: set[int] = set()
        for record in records:
            if record["round"] not in self._rounds[run]:
                metrics = record_metrics(record, site, self.context.params.privacy.epsilon)
                if len(batch) + len(metrics) > _METRICS:
                    self._flush(run, batch, held)
                    batch, held = [], set()
                batch += metrics
                held.add(record["round"])
        if batch:
            self._flush(run, batch, held)

    def _flush(self, run: str, batch: list[Metric], held: set[int]) -> None:
        self.client.log_batch(run, metrics=batch)
        self._rounds[run] |= held

    def _end(self, found: Published, result: Mapping[str, Any]) -> None:
        """The final metrics once; the files anew, as baselines may have come since."""
        metrics = result["metrics"] or {"overall": {}, "sites": {}}
        risks = risk_summaries(self.context)
        for site in self.context.params.federation.members:
            privacy = result["privacy"].get(site) or {}
            names = ("epsilon", "private", "delta", "mechanism", "accountant")
            tags = {f"folkmoot.{key}": privacy.get(key) for key in names}
            tags |= {f"folkmoot.risk.{k}": v for k, v in risks.get(site, {}).items()}
            if site in result["missing"]:
                tags["folkmoot.left_out"] = result["missing"][site]
            self._finish(self._site(site), result, metrics["sites"].get(site, {}), tags)
        tags = {
            "folkmoot.epsilon": found.epsilon,
            "folkmoot.private": result["private"],
            "folkmoot.stop": result["stop"],
            "mlflow.note.content": summary(found, self.context),
        }
        claims = privacy_statement.statement(found, self.context)
        tags |= privacy_statement.tags(claims)
        self._text(json.dumps(claims, indent=1, sort_keys=True), "privacy_statement.json")
        self._text(privacy_statement.words(claims), "privacy_statement.md")
        if claims["epsilon"] is not None:
            self._text(json.dumps(privacy_statement.budget(found)), BUDGET)
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": BUDGET, "type": "table"}])
        self._text(json.dumps(result, indent=1, sort_keys=True), "result.json")
        self._text(json.dumps(list(found.records), indent=1, sort_keys=True), "rounds.json")
        for name, figure in plots.figures(
            found, self.context.contract.task, self.context.params.privacy.epsilon
        ).items():
            self.client.log_figure(self.run, figure, name)
        self._trees(result)
        if found.baselines:
            self._text(json.dumps(found.baselines, indent=1, sort_keys=True), "baselines.json")
            pooled = found.baselines.get("pooled") or {}
            pooled_metrics = {f"pooled/{k}": v for k, v in pooled.get("overall", {}).items()}
            self._finish(self.run, result, pooled_metrics, {}, mark="folkmoot.compared")
        self._finish(self.run, result, metrics["overall"], tags)

    def _trees(self, result: Mapping[str, Any]) -> None:
        """Importance, contributions and, of private ones, curves of a tree model."""
        if result["kind"] != "trees":
            return
        data = self.context.store.get(self.context.key(result["model"]), result["model_digest"])
        model = decode(data, kind="model")
        for name, figure in tree_plots.figures(model, self.context).items():
            self.client.log_figure(self.run, figure, name)
        for name, text in tree_plots.tables(model, self.context).items():
            self._text(text, name)

    def _finish(
        self,
        run: str,
        result: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, Any],
        mark: str = "folkmoot.model_digest",
    ) -> None:
        from mlflow.entities import RunTag

        there = self.client.get_run(run)
        pairs = {k: _plain(v) for k, v in tags.items() if v is not None}
        points: list[Metric] = []
        if mark not in there.data.tags:  # one call: a loss between would log the points twice
            pairs[mark] = result["model_digest"]
            points = metrics_at(metrics, result["rounds"])
        changed = [RunTag(k, v) for k, v in pairs.items() if there.data.tags.get(k) != v]
        if changed:
            self.client.log_batch(run, metrics=points, tags=changed)
        if mark == "folkmoot.model_digest" and there.info.status != "FINISHED":
            self.client.set_terminated(run)

    def _text(self, text: str, name: str) -> None:
        self.client.log_text(self.run, text, name)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
