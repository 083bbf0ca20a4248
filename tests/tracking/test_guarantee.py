"""What a run's page says of differential privacy is no more than holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from folkmoot.params import Params, parse_params
from pipelines.coordinator.mlflow_view import guarantee


@dataclass
class Context:
    params: Params


@pytest.mark.parametrize(
    ("private", "epsilon", "said", "never"),
    [
        (True, 1.5, "held-out rows are exact", "NOT PRIVATE"),
        (False, 1.5, "NOT PRIVATE", "epsilon ≤"),
        (False, None, "Not differentially private", "epsilon ≤"),
    ],
)
def test_no_more_is_claimed_than_holds(
    private: bool, epsilon: float | None, said: str, never: str
) -> None:
    context: Any = Context(parse_params({}))
    sentence = guarantee(context, {"private": private}, epsilon)
    assert said in sentence
    assert never not in sentence
