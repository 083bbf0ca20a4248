"""The steward's consent to a federation, as a signed record in the site's own folder.

``private/consents/<federation>.json`` holds canonical JSON under the site's signature: federation, the
coordinator's key (of the roster that the steward accepted), the data contract and, where wanted, a last
day.  A site whose ``site.toml`` or whose plan asks for consent does not look at its rows without it,
whatever was clicked at the coordinator.  Consent is to one contract: with another one the steward is
asked again.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.errors import ConfigError, PrivacyError, ProtocolError
from folkmoot.identity.signatures import sign, verify
from folkmoot.wire import canonical_json
from site_tasks import membership

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["check", "consent_file", "given", "needed", "record", "withdraw"]


def consent_file(home: SiteHome, federation: str) -> Path:
    """Where a site keeps its consent to a federation."""
    return home.private / "consents" / f"{federation}.json"


def record(
    home: SiteHome,
    federation: str,
    contract: str,
    *,
    until: datetime.date | None = None,
    today: datetime.date | None = None,
) -> dict[str, Any]:
    """Write the steward's consent; returns what was signed.

    Parameters
    ----------
    home : SiteHome
        The site.
    federation : str
        Name of the federation; ``permissions.federations`` must list it.
    contract : str
        Digest (SHA-256, hex) of the data contract that is consented to.
    until : date, optional
        Last day (UTC) on which it counts.

    Raises
    ------
    ConfigError
        Where the site does not permit the federation, or has accepted no roster yet.
    """
    if federation not in home.settings.permissions.federations:
        raise ConfigError(
            "config.invalid",
            f"permissions.federations in site.toml does not list {federation}.",
            "Add it there first, or correct the name.",
            site=home.name,
        )
    roster = membership.accepted(home)
    if roster is None:
        raise ConfigError(
            "config.missing-file",
            "The site has accepted no roster: it is not known whose federation that is.",
            "folkmoot roster accept, then consent.",
            site=home.name,
        )
    values = {
        "kind": "consent",
        "site": home.name,
        "federation": federation,
        "coordinator": roster.coordinator,
        "contract": contract,
        "given": (today or _today()).isoformat(),
        "until": None if until is None else until.isoformat(),
    }
    path = consent_file(home, federation)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(sign(canonical_json(values), home.key()))
    os.replace(part, path)
    return values


def withdraw(home: SiteHome, federation: str) -> bool:
    """Take the consent back; whether there was one.  What has left the site stays where it is."""
    path = consent_file(home, federation)
    found = path.exists()
    path.unlink(missing_ok=True)
    return found


def given(home: SiteHome, federation: str) -> dict[str, Any] | None:
    """What the steward signed for a federation, or None.

    Raises
    ------
    ProtocolError
        ``protocol.signature`` where the record is damaged, or not signed with the site's key.
    """
    path = consent_file(home, federation)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body = verify(data, home.key().public_key(), what=f"The consent of site {home.name}")
    values: dict[str, Any] = json.loads(body)
    if (values.get("kind"), values.get("site")) != ("consent", home.name):
        raise ProtocolError(
            "protocol.signature",
            f"{path.name} is no consent of site {home.name}.",
            f"Let the steward consent anew: folkmoot site consent {home.name} {federation}",
            site=home.name,
        )
    return values


def needed(context: RunContext, home: SiteHome) -> bool:
    """Whether site or plan ask for consent."""
    return home.settings.permissions.consent or context.params.approval.consent


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse a run that the steward has not consented to, where site or plan ask for it.

    Raises
    ------
    PrivacyError
        ``privacy.consent``, naming what has no consent and the command.
    ProtocolError
        As :func:`given`.
    """
    if not needed(context, home):
        return
    path = consent_file(home, context.federation)
    try:
        found = path.stat()
        stamp: tuple[int, ...] = (found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError:
        stamp = ()
    name, today = ("consent", home.root), _today()
    if stamp and context.cache.get(name) == (stamp, today):
        return
    digest = context.contract.digest()
    values = given(home, context.federation)
    if values is None:
        raise _refusal(context, home, "has not consented to this federation")
    if values["contract"] != digest:
        raise _refusal(context, home, "consented to another data contract")
    if values["coordinator"] != context.roster.coordinator:
        raise _refusal(context, home, "consented to another coordinator's key")
    if values["until"] is not None and today > datetime.date.fromisoformat(values["until"]):
        raise _refusal(context, home, f"consented until {values['until']}")
    context.cache[name] = (stamp, today)


def _refusal(context: RunContext, home: SiteHome, what: str) -> PrivacyError:
    return PrivacyError(
        "privacy.consent",
        f"Site {home.name}: its steward {what}.",
        f"At the site: folkmoot site consent {home.name} {context.federation} "
        f"--contract {context.contract.digest()}",
        site=home.name,
    )


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
