"""What the steward permits of statistics: section ``statistics`` of ``site.toml``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from folkmoot.errors import PrivacyError

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["check", "fewest"]


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse statistics that the site does not permit; O(questions).

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted``, naming the key of ``site.toml``.
    """
    allowed, params = home.settings.statistics, context.params
    asked = params.statistics
    foreign = [question for question in asked.ask if question not in allowed.kinds]
    if foreign:
        raise _refusal(home, "statistics.kinds", f"does not permit {', '.join(foreign)}")
    columns = home.settings.permissions.columns
    if columns is not None:
        from folkmoot.statistics.questions import counted

        named = {column.name for column in counted(params, context.contract)}
        extra = sorted(named - {*columns, context.contract.label.name})
        if extra:
            raise _refusal(home, "permissions.columns", f"does not permit {', '.join(extra)}")
    if not params.privacy.private and not allowed.exact:
        raise _refusal(home, "statistics.exact", "permits statistics with noise alone")
    if asked.summed and not params.aggregation.masked and not allowed.alone:
        raise _refusal(
            home, "statistics.alone", "permits sums over several sites alone, not this site's own"
        )
    if asked.minimum_cell < allowed.minimum_cell:
        raise _refusal(
            home,
            "statistics.minimum_cell",
            f"asks for cells of at least {allowed.minimum_cell} rows, the plan has "
            f"{asked.minimum_cell}",
        )
    if allowed.cells_at_site and asked.small_cells != "site" and not params.privacy.private:
        raise _refusal(
            home, "statistics.cells_at_site", "asks for statistics.small_cells site in the plan"
        )
    if allowed.computing is not None:
        distrusted = sorted(set(asked.compute) - {*allowed.computing, home.name})
        if distrusted:
            raise _refusal(
                home, "statistics.computing", f"trusts no shares to {', '.join(distrusted)}"
            )
    if home.name in asked.compute and not allowed.compute:
        raise _refusal(home, "statistics.compute", "does not let this site compute for others")


def fewest(home: SiteHome) -> int:
    """Fewest sites behind a statistic that this site helps to open."""
    return max(
        home.settings.statistics.minimum_contributors,
        home.settings.permissions.minimum_contributors,
    )


def _refusal(home: SiteHome, key: str, what: str) -> PrivacyError:
    return PrivacyError(
        "privacy.not-permitted",
        f"Site {home.name}: {key} in site.toml {what}.",
        "Change the plan, or let the site's steward change site.toml.",
        site=home.name,
    )
