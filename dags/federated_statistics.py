"""Airflow DAG ``federated_statistics``: what section ``statistics`` of ``params.yaml`` asks for."""

from pipelines.hosts.airflow import federated_dag

dag = federated_dag("statistics")
