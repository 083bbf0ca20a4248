"""A run of statistics in MLflow: one run with its questions, figures as metrics, and the whole result.

It can be repeated: the run is found by its tag, and what it holds is written over.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from folkmoot.plan import RunContext
from pipelines.coordinator import mlflow_store
from pipelines.coordinator.published import largest_epsilon

__all__ = ["figures_of", "log"]

#: What MLflow takes in the name of a metric.
_FOREIGN = re.compile(r"[^A-Za-z0-9_\-. /]")
_BATCH = 500


def log(context: RunContext, result: Mapping[str, Any]) -> str:
    """Log a finished run; returns MLflow's id of it.

    Raises
    ------
    TransientError
        ``transient.tracking`` where MLflow does not answer.
    ConfigError
        Where MLflow refuses for good, or is not installed.
    """
    params, workspace = context.params, context.workspace
    with mlflow_store.conversation(params, workspace):
        from mlflow.entities import Metric, Param, RunTag

        client = mlflow_store.connect(params, workspace)
        experiment = mlflow_store.experiment(client, params, workspace)
        query = f"tags.`folkmoot.run` = '{context.run}'"
        known = client.search_runs([experiment], query)
        tags = {"folkmoot.run": context.run, "folkmoot.federation": context.federation}
        run = known[0] if known else client.create_run(experiment, tags=tags, run_name=context.run)
        identity = str(run.info.run_id)
        if run.info.status == "FINISHED":
            return identity
        asked = params.statistics.model_dump(mode="json")
        settings = {f"statistics.{key}": json.dumps(value) for key, value in asked.items()}
        settings["privacy.mechanism"] = params.privacy.mechanism
        settings["aggregation.protection"] = params.aggregation.protection
        values = [Param(key, value) for key, value in settings.items()]
        facts = {
            "folkmoot.kind": "statistics",
            "folkmoot.params": params.digest(),
            "folkmoot.private": json.dumps(result["private"]),
            "folkmoot.epsilon": json.dumps(largest_epsilon(result)),
        }
        client.log_batch(identity, params=values, tags=[RunTag(*item) for item in facts.items()])
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in figures_of(result["statistics"])]
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(identity, metrics=metrics[start : start + _BATCH])
        client.log_text(identity, json.dumps(result, indent=1, sort_keys=True), "statistics.json")
        client.set_terminated(identity)
    return identity


def figures_of(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Every number of a result under the path that leads to it, but for lists of bins."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from figures_of(value, (*path, str(key)))
    elif isinstance(values, list) and all(isinstance(one, Mapping) for one in values):
        for one in values:
            own = one.get("probability", "-".join(map(str, one.get("sites", ()))))
            rest = {k: v for k, v in one.items() if k not in {"probability", "sites"}}
            yield from figures_of(rest, (*path, str(own)))
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield _FOREIGN.sub("_", "/".join(path))[:250], float(values)
