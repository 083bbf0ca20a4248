"""When Airflow starts a training by itself: section ``schedule``."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from folkmoot.sections import Section

__all__ = ["Schedule"]

Cron = Annotated[str, StringConstraints(pattern=r"^\S+( \S+){4}$")]


class Schedule(Section):
    """When Airflow starts a training by itself; times are UTC."""

    cron: Cron | None = "0 3 * * 1"
    """Cron expression of five fields for `federated_linear` and `federated_trees`; never by the clock when null."""
    on_new_data: bool = True
    """Whether a new dataset version at any site starts a training too."""
    refresh_cron: Cron | None = "0 2 * * *"
    """When `refresh_site_data` looks for new dataset versions at the sites; by hand only when null."""
