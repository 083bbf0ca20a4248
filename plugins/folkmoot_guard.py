"""The guard, for Airflow's API servers; see ``pipelines/hosts/airflow_guard.py``."""

import sys

if sys.argv[1:2] == ["api-server"]:  # tasks and scheduler read this folder as well
    from pipelines.hosts.airflow_guard import FolkmootGuard as FolkmootGuard
