"""Dataset versions as Airflow Assets: what ``refresh_site_data`` does.

Every site records what changed in its own folder (DVC), beside its data; one task then announces all
changed sites at once, so that one training follows and not one per site.  An Asset event carries the
keyed fingerprint of the version and nothing else.
"""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowSkipException

from folkmoot.errors import RoundError
from folkmoot.params import Params
from pipelines.hosts.airflow_project import ProjectTask

__all__ = ["AnnounceData", "RefreshSite", "alias", "site_asset"]

log = logging.getLogger(__name__)


def site_asset(params: Params, site: str) -> Asset:
    """The dataset of a site."""
    name = params.federation.name
    return Asset(f"{name}/{site}", uri=f"folkmoot://{name}/{site}/dataset", group="site_data")


def alias(params: Params) -> AssetAlias:
    """Under which changed datasets are announced."""
    return AssetAlias(f"{params.federation.name}/site-data", group="site_data")


class RefreshSite(ProjectTask):
    """Record the present rows of a site as a dataset version, at the site."""

    def __init__(self, *, site: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.site = site

    def work(self, context: Any) -> dict[str, str]:
        """Returns site and fingerprint."""
        from site_tasks.refresh import refresh

        return {"site": self.site, "dataset": refresh(self.site, self.project.outside())}


class AnnounceData(ProjectTask):
    """Emit an Asset event for every site whose dataset version is new."""

    def work(self, context: Any) -> dict[str, str]:
        """Returns the fingerprint of every changed site."""
        params = self.project.params
        changed: dict[str, str] = {}
        tasks = {f"refresh-{site}": site for site in params.federation.members}
        found = context["ti"].xcom_pull(task_ids=list(tasks)) or []
        versions = {entry["site"]: entry["dataset"] for entry in found if entry}
        if not versions:
            raise RoundError(
                "round.quorum", "No site could be refreshed.", "See each site's task for its error."
            )
        for site, fingerprint in sorted(versions.items()):
            asset = site_asset(params, site)
            last = list(context["inlet_events"][asset].ascending(False).limit(1))
            if last and last[0].extra.get("dataset") == fingerprint:
                continue
            context["outlet_events"][alias(params)].add(asset, extra={"dataset": fingerprint})
            changed[site] = fingerprint
            log.info("%s has a new dataset version", site)
        if not changed:
            raise AirflowSkipException("No site has a new dataset version.")
        return changed
