"""Whole plans against a site's terms: a run that could not be finished is not begun.

What a run's plan was granted is noted beside the entries, so that only what is new of it has to fit
when the run is prolonged.
"""

from __future__ import annotations

import json
import sqlite3

from folkmoot.privacy.ledger import ceilings
from folkmoot.privacy.ledger import totals as running
from folkmoot.privacy.ledger.ceilings import Terms
from folkmoot.privacy.ledger.entries import Subject
from folkmoot.wire import canonical_json

__all__ = ["hold"]


def hold(
    db: sqlite3.Connection,
    site: str,
    subject: Subject,
    terms: Terms,
    totals: running.Totals,
    when: str,
    *,
    note: bool = False,
) -> None:
    """Hold a release, and the plan it belongs to, against the site's terms.

    Parameters
    ----------
    db : sqlite3.Connection
        The ledger, in a transaction where ``note`` is set.
    site : str
        Whose it is.
    subject, terms
        The release and what holds for it.
    totals : Totals
        What was spent, proven by the last entry.
    when : str
        Now, as the ledger counts time.
    note : bool
        Whether what the plan asks for is written down, so that it is not asked twice.

    Raises
    ------
    PrivacyError
        ``privacy.differencing``; ``privacy.ceiling`` where the plan would not fit.
    """
    ceilings.refuse_differencing(terms, totals, subject, site)
    if not terms.planned:
        return
    name = (subject.federation, subject.run, subject.lineage)
    row = db.execute(
        "SELECT planned FROM plans WHERE federation = ? AND run = ? AND lineage = ?", name
    ).fetchone()
    # A run may be prolonged: what is new of its plan has to fit.
    before: dict[str, int] = {} if row is None else json.loads(row[0])
    named = {canonical_json(e.to_dict()).decode(): (e, n) for e, n in terms.planned.items()}
    more = {event: n - before.get(text, 0) for text, (event, n) in named.items()}
    more = {event: n for event, n in more.items() if n > 0}
    if more:
        rounds = max(more.values())
        what = f"plan of run {subject.run} ({rounds} charged release{'s' * (rounds > 1)})"
        day = running.day_of(when)
        ceilings.refuse_over(terms.ceilings, totals, more, subject, day, site=site, what=what)
        if note:
            planned = before | {text: max(n, before.get(text, 0)) for text, (_, n) in named.items()}
            text = canonical_json(planned).decode()
            db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?)", (*name, text))
