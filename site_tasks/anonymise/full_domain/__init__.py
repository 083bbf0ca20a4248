"""Global full-domain recoding: one level of each hierarchy for the whole table.

The lattice of levels is searched completely, with pruning that is proven not to lose the optimum
(:mod:`.search`); what suppression is allowed, rows of classes that fail are suppressed.
"""

from __future__ import annotations

from site_tasks.anonymise.full_domain.lattice import Lattice
from site_tasks.anonymise.full_domain.recode import recode
from site_tasks.anonymise.full_domain.search import Found, search
from site_tasks.anonymise.full_domain.tables import Outcome, Table

__all__ = ["Found", "Lattice", "Outcome", "Table", "recode", "search"]
