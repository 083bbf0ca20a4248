"""Airflow DAG ``refresh_site_data``: new dataset versions at the sites, as Assets."""

from pipelines.hosts.airflow import refresh_dag

dag = refresh_dag()
