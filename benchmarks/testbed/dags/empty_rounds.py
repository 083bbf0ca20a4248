"""``federated_linear`` task by task, queue by queue, with tasks that do nothing: Airflow's own share.

In a task's process, at a site as at the coordinator, the file makes that one task alone, as the
project's own does, and imports nothing for it.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, BaseOperator, get_parsing_context


class Nothing(BaseOperator):  # type: ignore[misc]
    """A task that does nothing, in a process of its own as every task."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


def copied(dag: DAG) -> None:
    """Every task of another DAG, with what the scheduler goes by."""
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    from pipelines.hosts.airflow import federated_dag

    original = federated_dag("linear")
    assert original is not None
    # It is the other file's: Airflow takes every DAG of a `with` for one of the file it is made in.
    DagContext.autoregistered_dags.clear()
    for task in original.tasks:
        Nothing(
            task_id=task.task_id,
            dag=dag,
            queue=task.queue,
            executor=task.executor,
            trigger_rule=task.trigger_rule,
            retries=task.retries,
        )
    for task in original.tasks:
        dag.get_task(task.task_id).set_downstream(
            [dag.get_task(name) for name in sorted(task.downstream_task_ids)]
        )


dag = DAG("empty_rounds", schedule=None, catchup=False)
own = get_parsing_context().task_id
if own is None:
    copied(dag)
else:
    Nothing(task_id=own, dag=dag)
