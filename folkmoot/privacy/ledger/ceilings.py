"""Ceilings on epsilon, and what a site's terms are for one release: refused before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event
from folkmoot.privacy.ledger import totals as running
from folkmoot.privacy.ledger.entries import Subject

__all__ = [
    "Ceiling",
    "Outlook",
    "Terms",
    "outlook",
    "refuse_differencing",
    "refuse_over",
    "unspent",
]

_MOST_RUNS = 1 << 20


@dataclass(frozen=True)
class Ceiling:
    """Most epsilon, at ``delta``, that the releases of one lineage may reach.

    Parameters
    ----------
    epsilon, delta : float
        The bound.
    per : {"lineage", "federation", "requester", "period"}
        Over all of them, those of one federation, of one requester, or of the last ``days`` days.
    days : int
        Length of the period: today (UTC) and the days before it.
    key : str
        Its name in ``site.toml``.
    """

    epsilon: float
    delta: float
    per: Literal["lineage", "federation", "requester", "period"] = "lineage"
    days: int = 365
    key: str = "permissions.epsilon_ceiling"

    def spent(self, totals: running.Totals, about: Subject, day: str) -> dict[Event, int]:
        """Events that count under it for a release of ``about`` on ``day``."""
        scope, names = {
            "lineage": ("lineage", [""]),
            "federation": ("federation", [about.federation]),
            "requester": ("requester", [about.requester]),
            "period": ("day", []),
        }[self.per]
        if self.per == "period":
            names = running.days_until(day, self.days)
        return running.counts(totals, scope, about.lineage, names)

    def words(self, about: Subject) -> str:
        """What it bounds, for people."""
        over = {
            "lineage": "",
            "federation": f" for federation {about.federation}",
            "requester": f" for requester {about.requester}",
            "period": f" within {self.days} days",
        }[self.per]
        return f"lineage {about.lineage}{over}"


@dataclass(frozen=True)
class Terms:
    """Under what a site lets a release leave.

    Parameters
    ----------
    ceilings : tuple of Ceiling
        All must hold.
    planned : mapping of event to count
        Charges of the whole run: must fit before its first release.
    exact : bool
        The plan is without differential privacy.
    differencing : bool
        Whether such a plan may use a lineage that was used in another version.
    """

    ceilings: tuple[Ceiling, ...] = ()
    planned: Mapping[Event, int] = field(default_factory=dict)
    exact: bool = False
    differencing: bool = True


@dataclass(frozen=True)
class Outlook:
    """What a plan means for one ceiling: spent, after one such run, and how many runs are left."""

    ceiling: Ceiling
    spent: float
    after: float
    method: str
    runs_left: int | None


def refuse_over(
    ceilings: tuple[Ceiling, ...],
    totals: running.Totals,
    asked: Mapping[Event, int],
    about: Subject,
    day: str,
    *,
    site: str,
    what: str,
) -> None:
    """Refuse what would pass a ceiling; O(totals) and one accounting per ceiling.

    Raises
    ------
    PrivacyError
        ``privacy.ceiling``, with ceiling, spent and asked.
    """
    for ceiling in ceilings:
        events = ceiling.spent(totals, about, day)
        after, _ = epsilon(_plus(events, asked), ceiling.delta)
        if not after <= ceiling.epsilon:
            before, _ = epsilon(events, ceiling.delta)
            raise PrivacyError(
                "privacy.ceiling",
                f"The {what} would bring site {site} to epsilon {after:.4g} at delta "
                f"{ceiling.delta:g} ({ceiling.words(about)}): its ceiling is {ceiling.epsilon:g}, "
                f"{before:.4g} is spent, {after - before:.4g} is asked. Nothing was drawn.",
                "Plan fewer rounds or more noise (`folkmoot ledger forecast` says how many runs are "
                f"left), or let the site's steward raise {ceiling.key} in site.toml.",
                site=site,
            )


def refuse_differencing(terms: Terms, totals: running.Totals, about: Subject, site: str) -> None:
    """Refuse exact sums over a second version of the same people.

    Raises
    ------
    PrivacyError
        ``privacy.differencing``.
    """
    if not terms.exact or terms.differencing:
        return
    for scope, lineage, name, _ in totals:
        if scope == running.VERSION and lineage == about.lineage and name != about.dataset:
            raise PrivacyError(
                "privacy.differencing",
                f"Site {site} has released results of another version of lineage {lineage}, and this "
                "plan has no differential privacy: subtracting the two results would give the rows "
                "in which the versions differ, exactly, even from sums over many sites. "
                "Nothing was computed.",
                "Choose a privacy.mechanism with noise, go on with the version used before "
                "(dataset.revision in site.toml), give really new people a lineage of their own "
                "(dataset.lineage), or let the steward set permissions.differencing = true.",
                site=site,
            )


def outlook(
    ceiling: Ceiling,
    totals: running.Totals,
    planned: Mapping[Event, int],
    about: Subject,
    day: str,
) -> Outlook:
    """What ``planned`` would cost under a ceiling, and how many such runs fit from now on."""
    events = ceiling.spent(totals, about, day)
    spent, _ = epsilon(events, ceiling.delta)
    after, method = epsilon(_plus(events, planned), ceiling.delta)
    if not planned:
        return Outlook(ceiling, spent, after, method, None)

    def fits(runs: int) -> bool:
        many = {event: runs * count for event, count in planned.items()}
        return epsilon(_plus(events, many), ceiling.delta)[0] <= ceiling.epsilon

    if ceiling.epsilon == math.inf:
        return Outlook(ceiling, spent, after, method, None)
    low, high = 0, 1
    while high < _MOST_RUNS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Outlook(ceiling, spent, after, method, low)


def unspent(about: Subject, terms: Terms) -> list[Outlook]:
    """The outlook of a site that has no ledger yet."""
    return [outlook(ceiling, {}, terms.planned, about, "1970-01-01") for ceiling in terms.ceilings]


def _plus(events: Mapping[Event, int], more: Mapping[Event, int]) -> dict[Event, int]:
    total = dict(events)
    for event, count in more.items():
        total[event] = total.get(event, 0) + count
    return total
