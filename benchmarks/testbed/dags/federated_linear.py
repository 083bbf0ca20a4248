"""Airflow DAG ``federated_linear``, beside the empty one that it is measured against."""

from pipelines.hosts.airflow import federated_dag

dag = federated_dag("linear")
