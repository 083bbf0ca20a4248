"""Record what changed in a site's dataset: the site's half of ``refresh_site_data``."""

from __future__ import annotations

from folkmoot.errors import DataError
from folkmoot.plan import RunContext, Step
from site_tasks.border import border
from site_tasks.dataset import add, resolve
from site_tasks.home import SiteHome

__all__ = ["refresh"]


def refresh(site: str, context: RunContext) -> str:
    """Make the present rows of a site its dataset version; O(bytes) where they changed.

    Parameters
    ----------
    site : str
        Name of the site.
    context : RunContext
        Federation and workspace; no run needs to be open.

    Returns
    -------
    str
        Keyed fingerprint of the version.

    Raises
    ------
    FolkmootError
        As :func:`site_tasks.dataset.add` and ``resolve`` do; nothing else crosses the border.
    """
    with border(Step(f"refresh/{site}", "site.refresh", site, 0), context):
        home = SiteHome.find(site, context.workspace)
        try:
            return resolve(home).fingerprint
        except DataError as error:
            # Rows differ from what DVC recorded: that is the news we look for.
            if error.code != "data.version" or home.settings.dataset.revision is not None:
                raise
        return add(home, home.dataset, "Refresh the dataset").fingerprint
    raise AssertionError("unreachable")
