"""``params.yaml``, typed and frozen; one module for each section.

Every section is a strict pydantic model: unknown keys are refused with the nearest known name,
infinities and NaN are refused, and no error repeats a value.  ``docs/reference/params.md`` is
generated from the descriptions in the modules (``folkmoot params reference``).
"""

from __future__ import annotations

from folkmoot.params.aggregation import Aggregation
from folkmoot.params.anonymisation import (
    Anonymisation,
    DeltaPresence,
    LDiversity,
    TCloseness,
)
from folkmoot.params.approval import Approval
from folkmoot.params.data import Data, Holdout, Partition
from folkmoot.params.defence import Defence
from folkmoot.params.federation import Federation
from folkmoot.params.kinds import Name, NonNegative, Positive
from folkmoot.params.model import EarlyStopping, Linear, Model, Trees
from folkmoot.params.privacy import Privacy
from folkmoot.params.root import Params, load_params, parse_params
from folkmoot.params.schedule import Schedule
from folkmoot.params.statistics import Statistics
from folkmoot.params.tracking import Tracking

__all__ = [
    "Aggregation",
    "Anonymisation",
    "Approval",
    "Data",
    "Defence",
    "DeltaPresence",
    "EarlyStopping",
    "Federation",
    "Holdout",
    "LDiversity",
    "Linear",
    "Model",
    "Name",
    "NonNegative",
    "Params",
    "Partition",
    "Positive",
    "Privacy",
    "Schedule",
    "Statistics",
    "TCloseness",
    "Tracking",
    "Trees",
    "load_params",
    "parse_params",
]
