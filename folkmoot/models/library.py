"""Importing XGBoost for no more than it is needed for."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__all__ = ["import_xgboost"]


def import_xgboost(*, alone: bool = False) -> ModuleType:
    """Import XGBoost, and scikit-learn with it unless this process runs one step alone.

    ``xgboost`` imports scikit-learn for the estimators it also offers, which takes three times as
    long as the library itself and is paid again in every task of a scheduler.  With ``alone`` it is
    told that there is none, so its estimators are not usable in this process; everything that
    Folkmoot needs is.
    """
    hide = alone and "xgboost" not in sys.modules and "sklearn" not in sys.modules
    if hide:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # import raises ImportError
    try:
        return importlib.import_module("xgboost")
    finally:
        if hide:
            del sys.modules["sklearn"]
