"""What a model learns from the rows before and after anonymisation.

Both are trained on quasi-identifiers alone: that is what anonymisation changes.  A numeric cell
becomes the mean of the values it allows, a category 1 / |allowed| on each; the test rows stay as
they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from site_tasks.anonymise.coded import Coded, Column
    from site_tasks.anonymise.recoding import Recoding

__all__ = ["features", "utility"]

Floats = NDArray[np.float32]


def features(columns: tuple[Column, ...], allowed: list[NDArray[np.bool_]]) -> Floats:
    """Rows as numbers.

    Parameters
    ----------
    columns : tuple of Column
        The quasi-identifiers.
    allowed : list of ndarray of bool, each of shape (n, column.size)
        Which values each cell allows.
    """
    out = []
    for column, cells in zip(columns, allowed, strict=True):
        share = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        if column.ordered:
            numeric = all(isinstance(value, int | float) for value in column.domain)
            scale = np.asarray(column.domain if numeric else range(len(column.domain)), np.float64)
            known = np.maximum(share[:, :-1].sum(axis=1), 1e-12)
            mean = share[:, :-1] @ scale / known
            spread = float(scale.std()) or 1.0
            centred = np.where(cells[:, :-1].any(axis=1), (mean - scale.mean()) / spread, 0.0)
            out += [centred[:, None], share[:, -1:]]
        else:
            out.append(share)
    return np.concatenate(out, axis=1).astype(np.float32)


def utility(
    coded: Coded, recoding: Recoding, label: NDArray[Any], test: NDArray[np.bool_] | None = None
) -> dict[str, dict[str, float]]:
    """Area under the ROC curve of a logistic model and of trees, before and after.

    Parameters
    ----------
    coded, recoding : Coded, Recoding
        The table, and what became of it.
    label : ndarray of int, shape (n,)
        Two classes.
    test : ndarray of bool, shape (n,), optional
        Rows to test on; every third row when absent.

    Returns
    -------
    dict
        ``{"logistic": {"before": …, "after": …}, "trees": …}``; empty where a part has one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from xgboost import XGBClassifier

    held = np.arange(coded.rows) % 3 == 2 if test is None else test
    kept = ~held & (recoding.classes >= 0)
    parts = (label[held], label[~held], label[kept])
    if any(len(np.unique(part)) != 2 for part in parts):
        return {}
    width = range(len(coded.columns))
    exact = [np.eye(coded.columns[j].size, dtype=np.bool_) for j in width]
    raw = features(coded.columns, exact_rows := [exact[j][coded.codes[:, j]] for j in width])
    del exact_rows
    of = recoding.classes[kept]
    coarse = features(coded.columns, [recoding.allowed(j)[of] for j in width])
    positive = label.max()
    makers: dict[str, Any] = {
        "logistic": lambda: LogisticRegression(max_iter=2000),
        "trees": lambda: XGBClassifier(
            n_estimators=100, max_depth=5, learning_rate=0.15, tree_method="hist", n_jobs=1
        ),
    }
    out = {}
    for name, make in makers.items():
        found = {}
        for when, rows, target in (
            ("before", raw[~held], label[~held]),
            ("after", coarse, label[kept]),
        ):
            model = make().fit(rows, target == positive)
            scores = model.predict_proba(raw[held])[:, 1]
            found[when] = float(roc_auc_score(label[held] == positive, scores))
        out[name] = found
    return out
