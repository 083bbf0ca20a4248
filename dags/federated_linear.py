"""Airflow DAG ``federated_linear``: one linear model over the sites of ``params.yaml``."""

from pipelines.hosts.airflow import federated_dag

dag = federated_dag("linear")
