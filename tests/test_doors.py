"""The doors of ``folkmoot.updates``: who may build what, and who refuses anything else."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from folkmoot import updates
from folkmoot.errors import PrivacyError
from folkmoot.updates import LinearUpdate, PrivatisedUpdate, ReleasedUpdate, Statistics, TreeUpdate
from site_tasks.seal import seal
from tests.source import ROOT, modules, source

ALLOWED = {
    "PRIVATISED_DOOR": {"folkmoot/updates.py", "site_tasks/privatise.py"},
    "MASKED_DOOR": {"folkmoot/updates.py", "site_tasks/secure/conceal.py"},
    "RELEASED_DOOR": {"folkmoot/updates.py", "site_tasks/release.py"},
}
RAW = {
    "linear": LinearUpdate({"delta": np.zeros((1, 3))}, 1.0),
    "trees": TreeUpdate(b"[]", 1.0),
    "statistics": Statistics({"rows": np.array(3)}),
}


@pytest.mark.parametrize("door", sorted(ALLOWED))
def test_only_its_own_module_holds_a_door(door: str) -> None:
    """By name anywhere: imported, as an attribute, or as a string for getattr."""
    names = {door, f"folkmoot.updates.{door}"}
    holders = {p.relative_to(ROOT).as_posix() for p in modules() if source(p).words & names}
    assert len(modules()) > 40
    assert "folkmoot/updates.py" in holders
    assert holders <= ALLOWED[door]


def test_nobody_imports_everything_from_updates() -> None:
    for path in modules():
        assert ("folkmoot.updates", "*") not in source(path).imports, path.name
    assert "PRIVATISED_DOOR" not in updates.__all__
    assert "RELEASED_DOOR" not in updates.__all__


@pytest.mark.parametrize("door", [None, object(), True, "PRIVATISED_DOOR"])
def test_constructors_refuse_whoever_has_no_token(door: Any) -> None:
    for build in (
        lambda: PrivatisedUpdate(door, RAW, {}),
        lambda: ReleasedUpdate(door, {}, RAW, ""),
    ):
        with pytest.raises(PrivacyError) as caught:
            build()
        assert caught.value.code == "privacy.order"


def test_one_door_does_not_open_the_other() -> None:
    with pytest.raises(PrivacyError):
        ReleasedUpdate(updates.PRIVATISED_DOOR, {}, RAW, "")
    with pytest.raises(PrivacyError):
        PrivatisedUpdate(updates.RELEASED_DOOR, RAW, {})


@pytest.mark.parametrize("kind", sorted(RAW))
def test_a_raw_update_cannot_be_sealed(kind: str) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with pytest.raises(PrivacyError) as caught:
        seal({}, RAW[kind], Ed25519PrivateKey.generate())  # type: ignore[arg-type]
    assert caught.value.code == "privacy.order"


STRATEGIES = ["newton", "fedavg", "fedadam", "scaffold", "local_dp", "bagging", "cyclic"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_aggregate_accepts_a_raw_or_merely_privatised_update(strategy: str) -> None:
    from folkmoot.params import Privacy
    from folkmoot.wire import Artefact
    from pipelines.coordinator.aggregate import aggregator
    from site_tasks.privatise import privatise

    model = Artefact("model", {}, {"coef": np.zeros((1, 2)), "intercept": np.zeros(1)})
    candidates: list[Any] = [
        *RAW.values(),
        privatise({"update": RAW["linear"]}, Privacy()),
        {},
        None,
    ]
    for candidate in candidates:
        with pytest.raises(PrivacyError) as caught:
            aggregator(strategy)(model, [candidate], None, 1)  # type: ignore[arg-type]
        assert caught.value.code == "privacy.order"


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_no_initial_model_is_made_of_raw_statistics(kind: str) -> None:
    initial = importlib.import_module("pipelines.coordinator.aggregate").initialiser(kind)
    with pytest.raises(PrivacyError) as caught:
        initial([RAW["statistics"]], None)
    assert caught.value.code == "privacy.order"
