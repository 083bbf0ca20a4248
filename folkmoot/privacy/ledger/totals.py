"""Running totals: what was spent, by lineage, federation, requester and day, kept beside the entries.

They change in the transaction of the entry that changes them, so that a decision over a million
entries reads a handful of rows.  Each entry's chain holds a digest of all of them, so an edit is
found before the next charge; ``verify`` makes them again from the entries.

Gaussian events of one unit and relation compose exactly into one, with the sum of ``1/s²``
(Dong, Roth & Su 2022, corollary 3.3): they are one row, however many noise multipliers there were.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from folkmoot.privacy.events import Event, Gaussian, from_dict
from folkmoot.wire import canonical_json

__all__ = ["Totals", "counts", "day_of", "scopes", "write"]

#: (scope, lineage, name, event) -> (count, weight)
Totals = dict[tuple[str, str, str, str], tuple[int, float]]
VERSION = "version"


def read(db: sqlite3.Connection) -> Totals:
    """All totals; O(totals): lineages x (federations + requesters + days) x kinds of event."""
    return {
        (scope, lineage, name, event): (count, weight)
        for scope, lineage, name, event, count, weight in db.execute("SELECT * FROM totals")
    }


def state(totals: Totals) -> str:
    """Digest (hex) of all totals; empty where there are none."""
    if not totals:
        return ""
    lines = ("\0".join((*key, str(n), weight.hex())) for key, (n, weight) in sorted(totals.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def scopes(content: Mapping[str, Any], day: str) -> list[tuple[str, str, str]]:
    """Scope, lineage and name that a charge counts under."""
    lineage = content["lineage"]
    return [
        ("day", lineage, day),
        ("federation", lineage, content["federation"]),
        ("lineage", lineage, ""),
        ("requester", lineage, content["requester"]),
    ]


def add(totals: Totals, content: Mapping[str, Any], day: str) -> Totals:
    """Enter an entry's charge and dataset version into ``totals``; returns what changed."""
    changed: Totals = {}
    for values in content["charge"]:
        event, weight = _folded(values)
        for scope in scopes(content, day):
            key = (*scope, event)
            count, before = totals.get(key, (0, 0.0))
            totals[key] = changed[key] = (count + 1, before + weight)
    version = (VERSION, content["lineage"], content["dataset"], "")
    if version not in totals:
        totals[version] = changed[version] = (1, 0.0)
    return changed


def write(db: sqlite3.Connection, changed: Totals) -> None:
    """Write rows that changed."""
    db.executemany(
        "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?)",
        [(*key, count, weight) for key, (count, weight) in changed.items()],
    )


def counts(
    totals: Totals, scope: str, lineage: str | None, names: Iterable[str]
) -> dict[Event, int]:
    """Events of one scope, each with its count, as the accountant takes them.

    Parameters
    ----------
    totals : Totals
        From :func:`read`.
    scope : str
        ``lineage``, ``federation``, ``requester`` or ``day``.
    lineage : str, optional
        One lineage; all of them when None.
    names : iterable of str
        Names within the scope; ``("",)`` for a lineage.
    """
    wanted = set(names)
    found: dict[Event, int] = {}
    weights: dict[str, float] = {}
    for (where, whose, name, text), (count, weight) in sorted(totals.items()):
        if where == scope and lineage in (None, whose) and name in wanted:
            if weight:
                weights[text] = weights.get(text, 0.0) + weight
            else:
                event = from_dict(json.loads(text))
                found[event] = found.get(event, 0) + count
    for text, weight in weights.items():
        event = from_dict({**json.loads(text), "noise_multiplier": 1 / math.sqrt(weight)})
        found[event] = found.get(event, 0) + 1
    return found


def days_until(day: str, days: int) -> list[str]:
    """``days`` days, the last of them ``day``."""
    import datetime

    last = datetime.date.fromisoformat(day)
    return [(last - datetime.timedelta(back)).isoformat() for back in range(days)]


def day_of(when: str) -> str:
    """Day (UTC) of an entry's time."""
    return when[:10]


def _folded(values: Mapping[str, Any]) -> tuple[str, float]:
    """Key of an event's row, and its weight where events of the kind fold into one."""
    if values.get("event") == Gaussian.name:
        rest = {k: v for k, v in values.items() if k not in {"noise_multiplier", "sensitivity"}}
        return canonical_json(rest).decode(), 1 / float(values["noise_multiplier"]) ** 2
    return canonical_json(dict(values)).decode(), 0.0
