"""Privacy models: what has to hold for every equivalence class of an anonymised table.

One small frozen class per model, each asked the same question: given the rows of every class by
value, which classes hold?  A search splits or merges classes and asks again; what it may conclude
is stated by :attr:`Model.merging` and :attr:`Model.growing`.
"""

from __future__ import annotations

from site_tasks.anonymise.models.base import Counts, Flags, Model, settled
from site_tasks.anonymise.models.closeness import TCloseness
from site_tasks.anonymise.models.contradictions import Table, check
from site_tasks.anonymise.models.diversity import (
    DistinctLDiversity,
    EntropyLDiversity,
    RecursiveCLDiversity,
)
from site_tasks.anonymise.models.likeness import AlphaK, BetaLikeness, DeltaDisclosure
from site_tasks.anonymise.models.population import DeltaPresence, KMap
from site_tasks.anonymise.models.size import KAnonymity

__all__ = [
    "AlphaK",
    "BetaLikeness",
    "Counts",
    "DeltaDisclosure",
    "DeltaPresence",
    "DistinctLDiversity",
    "EntropyLDiversity",
    "Flags",
    "KAnonymity",
    "KMap",
    "Model",
    "RecursiveCLDiversity",
    "TCloseness",
    "Table",
    "check",
    "settled",
]
