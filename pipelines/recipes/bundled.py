"""Recipes whose rows come with scikit-learn: no network, no files."""

from __future__ import annotations

from folkmoot.contract import Contract
from folkmoot.params import Data
from pipelines.recipes.rows import FrameRows

__all__ = ["rows"]

_SERUM = {"s1": "tc", "s2": "ldl", "s3": "hdl", "s4": "tch", "s5": "ltg", "s6": "glu"}


def rows(data: Data, contract: Contract) -> FrameRows:
    """Rows of ``breast_cancer`` (569) or ``diabetes`` (442, values before scaling)."""
    return _diabetes() if data.recipe == "diabetes" else _breast_cancer()


def _breast_cancer() -> FrameRows:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    frame.columns = [name.replace(" ", "_") for name in frame.columns]
    frame["diagnosis"] = frame.pop("target").map({0: "malignant", 1: "benign"})
    return FrameRows(frame)


def _diabetes() -> FrameRows:
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame = frame.rename(columns={**_SERUM, "target": "progression"})
    frame["age"] = frame["age"].astype("int64")
    frame["sex"] = frame["sex"].astype("int64").astype(str)
    return FrameRows(frame)
