"""The roster that a site's steward accepted, and the runs it therefore takes part in.

``private/roster.json`` holds the newest roster that all members signed and this site accepted.  A run
whose members or keys are others is refused: a coordinator can neither slip in a member, nor exchange
a key, nor bring back a roster with a site that was revoked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from folkmoot.errors import ProtocolError
from folkmoot.identity import Roster, public_text
from site_tasks import orders

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["accept", "accepted", "check"]

#: What was read from a file that has not changed since: every step of a site asks for it.
_read: dict[str, tuple[tuple[int, ...], Roster]] = {}


def accept(home: SiteHome, roster: Roster) -> bool:
    """Take a roster as the one that counts; whether it was new.

    Raises
    ------
    ProtocolError
        ``protocol.roster`` where a member has not signed it, it lists another key for this site, or
        it does not follow the accepted one.
    """
    if roster.keys.get(home.name) != public_text(home.key()):
        raise _refused(home, "does not list this site with its own key")
    missing = roster.unsigned()
    if missing:
        raise _refused(home, f"lacks the signature of {', '.join(missing)}")
    before = accepted(home)
    if before is not None:
        if before.digest() == roster.digest():
            return False
        if roster.version <= before.version:
            raise _refused(home, f"is not newer than version {before.version}, accepted before")
        if roster.version == before.version + 1 and roster.previous != before.digest():
            raise _refused(home, "does not follow the version that was accepted before")
    path = home.roster
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(roster.to_dict(), file)
    os.replace(part, path)
    return True


def accepted(home: SiteHome) -> Roster | None:
    """The roster that the site accepted last, or None.

    Raises
    ------
    ProtocolError
        ``protocol.roster`` where the file is damaged.
    """
    path = str(home.roster)
    try:
        found = os.stat(path)
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if path in _read and _read[path][0] == stamp:
            return _read[path][1]
        values: Mapping[str, Any] = json.loads(home.roster.read_bytes())
        roster = Roster.from_dict(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _refused(home, "that it accepted, private/roster.json, is damaged") from None
    _read[path] = (stamp, roster)
    return roster


def check(context: RunContext, home: SiteHome) -> None:
    """Refuse a run whose members' keys the site's steward did not accept; O(members).

    Raises
    ------
    ProtocolError
        ``protocol.roster``, naming the member; ``protocol.signature`` for a run that the coordinator
        did not sign.
    """
    known = accepted(home)
    if known is None:
        raise _refused(home, "has not been accepted by this site yet")
    name = ("membership", home.root)
    if context.cache.get(name) is known:
        return
    for member in context.params.federation.members:
        if member not in known.keys:
            raise _refused(home, f"that the site accepted does not list {member}")
        if context.roster.keys.get(member) != known.keys[member]:
            raise _refused(home, f"of the run has another key for {member} than the accepted one")
    if known.coordinator not in (None, context.roster.coordinator):
        raise _refused(home, "that the site accepted names another coordinator's key")
    orders.check_run(context)
    context.cache[name] = known


def _refused(home: SiteHome, what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.roster",
        f"Site {home.name}: the roster {what}.",
        "Let every member run `folkmoot roster sign`, then accept the complete roster.toml with "
        "`folkmoot roster accept`; treat a run with other keys as an attack.",
        site=home.name,
    )
