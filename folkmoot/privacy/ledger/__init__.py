"""The site's privacy ledger: append-only, hash-chained, signed, durable, and the site's alone.

It lies outside git and DVC, so that no checkout rewinds a spend.

==============  ===================================================================
``entries``     what an entry says; chain and signature
``store``       the SQLite file, transactions, the note of the last entry
``totals``      what was spent by lineage, federation, requester and day
``ceilings``    refusals before anything is drawn; forecasts
``clock``       entries never go back in time
``plans``       whole plans, held against the terms before they begin
``reader``      what it says: spent, forecast, entries, verify
``book``        :class:`Ledger`: reserve, commit
``audit``       the check of a whole ledger
``anchor``      the last entry, countersigned by the coordinator
==============  ===================================================================
"""

from folkmoot.privacy.ledger.book import Ledger
from folkmoot.privacy.ledger.ceilings import Ceiling, Outlook, Terms
from folkmoot.privacy.ledger.entries import Entry, Head, State, Subject

__all__ = ["Ceiling", "Entry", "Head", "Ledger", "Outlook", "State", "Subject", "Terms"]
