"""The shape of ``federated_linear`` with tasks that do nothing: what Airflow itself costs a round."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskGroup

SITES = ("site-a", "site-b", "site-c", "site-d")
ROUNDS = int(os.environ.get("EMPTY_ROUNDS", "8"))


class Nothing(BaseOperator):
    """A task that does nothing, in a process of its own as every task."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


with DAG("empty_rounds", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)) as dag:
    start = Nothing(task_id="open")
    before = Nothing(task_id="initialise", trigger_rule="all_done")
    with TaskGroup("prepare"):
        for site in SITES:
            with TaskGroup(site):
                last = start
                for name in ("version", "validate", "anonymise", "encode"):
                    step = Nothing(task_id=f"{name}-{site}", queue=f"site-{site}")
                    last >> step
                    last = step
            last >> before
    aggregates = []
    for number in range(1, ROUNDS + 1):
        with TaskGroup(f"round-{number:03d}"):
            train = [
                Nothing(task_id=f"train-{site}-{number:03d}", queue=f"site-{site}")
                for site in SITES
            ]
            aggregate = Nothing(task_id=f"aggregate-{number:03d}", trigger_rule="all_done")
        before >> train >> aggregate
        before = aggregate
        aggregates.append(aggregate)
    with TaskGroup("evaluate"):
        evaluate = [
            Nothing(task_id=site, queue=f"site-{site}", trigger_rule="none_failed")
            for site in SITES
        ]
    for aggregate in aggregates:
        aggregate >> evaluate
    evaluate >> Nothing(task_id="conclude", trigger_rule="all_done") >> Nothing(task_id="report")
