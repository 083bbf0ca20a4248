"""What sites train on and what scikit-learn's exported steps compute are the same columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from folkmoot.errors import ProtocolError
from folkmoot.models.design import Design
from folkmoot.models.linear import to_pipeline, to_sklearn
from folkmoot.wire import Artefact

MEAN, SCALE = np.array([3.0, 0.4, 10.0, -1.0]), np.array([2.0, 1.0, 4.0, 0.5])
LOWER, UPPER = np.array([0.0, 0.0, 1.5, -2.0]), np.array([6.0, 1.0, 20.0, 1.0])
BINS: dict[str, Any] = {"feature": np.array([0, 0, 2]), "edge": np.array([2.0, 4.0, 7.0])}


@pytest.mark.parametrize("bins", [{}, BINS], ids=["clipped", "binned"])
def test_the_exported_pipeline_computes_the_same_scores(bins: dict[str, Any]) -> None:
    design = Design(MEAN, SCALE, LOWER, UPPER, **bins)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1, design.width))
    meta = {"kind": "linear", "task": "binary", "classes": ["no", "yes"], "round": 3, "l2": 1.0}
    arrays = {**design.arrays(), "coef": w, "intercept": np.array([0.3])}
    model = Artefact("model", meta, arrays)
    x = rng.standard_normal((200, 4)) * 10
    x[::7, 1] = np.nan
    x[:3, 0] = 2.0, 4.0, 99.0
    x[3, 2] = 7.0
    expected = design.columns(x) @ w[0] + 0.3
    assert to_pipeline(model).decision_function(x) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ProtocolError):
        to_sklearn(model)


def test_a_plain_design_is_the_scaling_of_every_linear_model() -> None:
    design = Design(MEAN, SCALE)
    x = np.array([[1.0, np.nan, 3.0, 4.0]])
    expected = (np.array([[1.0, 0.4, 3.0, 4.0]]) - MEAN) / SCALE
    assert design.plain
    assert design.columns(x) == pytest.approx(expected)
    assert Design.of(design.arrays()).plain
