"""What the site's own ``site.toml`` permits; the stricter of site and plan wins.

The site checks this itself before every release, and before anything is charged or drawn.  Its
``minimum_rows`` is held by whoever reads prepared rows (``site_tasks.prepared``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from folkmoot.errors import PrivacyError
from folkmoot.privacy.events import EXACT
from folkmoot.privacy.ledger import Ceiling, Terms
from folkmoot.privacy.release import planned
from site_tasks import code, consent, membership

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["admit", "check", "delta", "terms"]

_NOTHING = object()


def admit(context: RunContext, home: SiteHome) -> None:
    """Refuse a run that the site has no part in; before its first step of any kind, and every other.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` for a federation, member or coordinator that ``site.toml`` does not
        name; ``privacy.consent`` where the steward's consent is asked for and missing.
    ProtocolError
        ``protocol.roster`` where members or keys are not those that the steward accepted,
        ``protocol.signature`` for a run that the coordinator did not sign, ``protocol.code`` where it
        asks for other code than runs here.
    """
    allowed, params = home.settings.permissions, context.params
    if context.federation not in allowed.federations:
        raise _refusal(home, "federations", f"does not list federation {context.federation}")
    distrusted = sorted(set(allowed.distrusted) & set(params.federation.members))
    if distrusted:
        raise _refusal(home, "distrusted", f"names {', '.join(distrusted)}")
    if allowed.coordinator not in (None, context.roster.coordinator):
        raise _refusal(home, "coordinator", "names the key of another coordinator than this run's")
    membership.check(context, home)
    consent.check(context, home)
    code.check(context, home)


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse a plan that the site does not permit.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` or ``privacy.seeded``, naming the key of ``site.toml``.
    FolkmootError
        As :func:`admit`.
    """
    admit(context, home)
    allowed, params = home.settings.permissions, context.params
    if params.statistics.active:
        from site_tasks.measure import allowed as statistics

        statistics.check(context, home)
    elif params.model.kind not in allowed.kinds:
        raise _refusal(home, "kinds", f"does not permit models of kind {params.model.kind}")
    if params.privacy.mechanism not in allowed.mechanisms:
        raise _refusal(home, "mechanisms", f"does not permit {params.privacy.mechanism}")
    if allowed.columns is not None and not params.statistics.active:
        extra = sorted({column.name for column in context.contract.inputs} - set(allowed.columns))
        if extra:
            raise _refusal(home, "columns", f"does not permit {', '.join(extra)}")
    if len(params.federation.members) < allowed.minimum_sites:
        raise _refusal(home, "minimum_sites", "asks for more sites than the federation has")
    exact = params.privacy.evaluates == "exact" and not params.statistics.active
    if exact and not allowed.evaluation:
        raise _refusal(home, "evaluation", "keeps exact counts on held-out rows at the site")
    _pinned(context, home)
    if params.kind == "trees" and params.model.trees.strategy == "xgboost_federated":
        tracker = params.model.trees.tracker
        if not {tracker.address, f"{tracker.address}:{tracker.port}"} & set(allowed.trackers):
            raise _refusal(home, "trackers", f"permits no connection to {tracker.address}")
    if allowed.insist_on_masks and params.aggregation.protection != "masks":
        raise _refusal(home, "insist_on_masks", "does not permit updates that the coordinator sees")
    if params.privacy.seeded and not allowed.seeded:
        raise PrivacyError(
            "privacy.seeded",
            f"Site {home.name} does not permit noise from a seed.",
            "Set privacy.seeded to false; seeded noise is for studies on public data.",
            site=home.name,
        )
    bounded = allowed.epsilon_ceiling is not None or home.settings.ceilings.any
    if bounded and params.privacy.mechanism in EXACT:
        raise _refusal(
            home,
            "epsilon_ceiling (or a key of [ceilings])",
            f"bounds epsilon, and nothing bounds it under mechanism {params.privacy.mechanism}",
        )


def delta(context: RunContext, home: SiteHome) -> float:
    """Delta at which the site states epsilon: the smaller of plan and site."""
    return min(context.params.privacy.delta, home.settings.permissions.delta)


def terms(context: RunContext, home: SiteHome) -> Terms:
    """Under what a release of this run may leave: ceilings, the plan's charges, differencing."""
    return Terms(
        ceilings(
            home, delta(context, home), context.federation, context.params.federation.requester
        ),
        planned(context.params, context.contract),
        context.params.privacy.mechanism in EXACT,
        home.settings.permissions.differencing,
    )


def fewest_contributors(context: RunContext, home: SiteHome) -> int:
    """Fewest sites whose sum this site helps to open.

    With a share of the noise at each site (``privacy.noise: distributed``) as many as make up the
    planned noise: a sum of fewer would be less private than what the ledger was charged for.
    """
    least, privacy = home.settings.permissions.minimum_contributors, context.params.privacy
    if context.params.statistics.active:
        least = max(least, home.settings.statistics.minimum_contributors)
    if privacy.clipping == "record" and privacy.noise == "distributed":
        least = max(least, context.params.federation.required - privacy.dropouts)
    return least


def ceilings(home: SiteHome, delta: float, federation: str, requester: str) -> tuple[Ceiling, ...]:
    """The site's ceilings on releases for a federation and a requester."""
    limits, whole = home.settings.ceilings, home.settings.permissions.epsilon_ceiling
    found = []
    if whole is not None:
        found.append(Ceiling(whole, delta))
    per_federation = limits.federations.get(federation, limits.federation)
    if per_federation is not None:
        found.append(Ceiling(per_federation, delta, "federation", key="ceilings.federation(s)"))
    per_requester = limits.requesters.get(requester, limits.requester)
    if per_requester is not None:
        found.append(Ceiling(per_requester, delta, "requester", key="ceilings.requester(s)"))
    if limits.period is not None:
        found.append(Ceiling(limits.period, delta, "period", limits.days, "ceilings.period"))
    return tuple(found)


def _pinned(context: RunContext, home: SiteHome) -> None:
    """Refuse a plan that sets something else than the site's ``[pins]``."""
    if not home.settings.pins:
        return
    values = context.params.model_dump(mode="json")
    for name, wanted in home.settings.pins.items():
        found: object = values
        for part in name.split("."):
            found = found.get(part, _NOTHING) if isinstance(found, dict) else _NOTHING
        if (
            found is _NOTHING
            or found != wanted
            or isinstance(found, bool) != isinstance(wanted, bool)
        ):
            what = "does not exist" if found is _NOTHING else "has another value in this plan"
            raise PrivacyError(
                "privacy.not-permitted",
                f"Site {home.name}: [pins] in site.toml fixes {name}, which {what}.",
                "Change the plan, or let the site's steward change site.toml.",
                site=home.name,
            )


def _refusal(home: SiteHome, key: str, what: str) -> PrivacyError:
    return PrivacyError(
        "privacy.not-permitted",
        f"Site {home.name}: permissions.{key} in site.toml {what}.",
        "Change the plan, or let the site's steward change site.toml.",
        site=home.name,
    )
