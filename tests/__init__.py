"""Tests; a package, so that ``tests.airflow`` hides no installed ``airflow``."""
