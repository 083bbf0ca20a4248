"""Airflow DAG ``federated_trees``: one XGBoost model over the sites of ``params.yaml``."""

from pipelines.hosts.airflow import federated_dag

dag = federated_dag("trees")
