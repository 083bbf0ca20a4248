"""What the site's own ``site.toml`` permits; the stricter of site and plan wins.

The site checks this itself before every release, and before anything is charged or drawn.  Its
``minimum_rows`` is held by whoever reads prepared rows (``site_tasks.prepared``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from folkmoot.errors import PrivacyError
from folkmoot.privacy.ledger import Ceiling

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["ceiling", "check", "delta"]


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse a plan that the site does not permit.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` or ``privacy.seeded``, naming the key of ``site.toml``.
    """
    allowed, params = home.settings.permissions, context.params
    if context.federation not in allowed.federations:
        raise _refusal(home, "federations", f"does not list federation {context.federation}")
    if params.model.kind not in allowed.kinds:
        raise _refusal(home, "kinds", f"does not permit models of kind {params.model.kind}")
    if params.privacy.mechanism not in allowed.mechanisms:
        raise _refusal(home, "mechanisms", f"does not permit {params.privacy.mechanism}")
    if allowed.columns is not None:
        extra = sorted({column.name for column in context.contract.inputs} - set(allowed.columns))
        if extra:
            raise _refusal(home, "columns", f"does not permit {', '.join(extra)}")
    if len(params.federation.members) < allowed.minimum_sites:
        raise _refusal(home, "minimum_sites", "asks for more sites than the federation has")
    if params.privacy.seeded and not allowed.seeded:
        raise PrivacyError(
            "privacy.seeded",
            f"Site {home.name} does not permit noise from a seed.",
            "Set privacy.seeded to false; seeded noise is for studies on public data.",
            site=home.name,
        )
    if allowed.epsilon_ceiling is not None and params.privacy.mechanism in {"none", "clip"}:
        raise _refusal(
            home,
            "epsilon_ceiling",
            f"bounds epsilon, and nothing bounds it under mechanism {params.privacy.mechanism}",
        )


def delta(context: RunContext, home: SiteHome) -> float:
    """Delta at which the site states epsilon: the smaller of plan and site."""
    return min(context.params.privacy.delta, home.settings.permissions.delta)


def ceiling(context: RunContext, home: SiteHome) -> Ceiling | None:
    """The site's ceiling over all its releases, or None."""
    most = home.settings.permissions.epsilon_ceiling
    return None if most is None else Ceiling(most, delta(context, home))


def _refusal(home: SiteHome, key: str, what: str) -> PrivacyError:
    return PrivacyError(
        "privacy.not-permitted",
        f"Site {home.name}: permissions.{key} in site.toml {what}.",
        "Change the plan, or let the site's steward change site.toml.",
        site=home.name,
    )
