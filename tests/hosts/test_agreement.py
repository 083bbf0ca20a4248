"""Sites settle on one schema: what leaves and what is chosen (three hosts: test_conformance)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.agreement import BEYOND, SchemaLattice, schema_digest
from folkmoot.errors import FolkmootError, ProtocolError
from folkmoot.identity import verify
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, keys
from folkmoot.wire import canonical_json, decode
from pipelines.coordinator.open_round import load_json
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context, store_of
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.settings import save_settings

Workspace = Callable[..., Path]


def params(*overrides: str) -> Params:
    values: dict[str, Any] = {
        "data": {"recipe": "synthetic", "rows": 1200},
        "anonymisation": {"recoding": "agreed", "k": 5, "suppression_limit": 1.0},
        "model": {"linear": {"rounds": 1}},
        "tracking": {"enabled": False},
    }
    return parse_params(values, overrides)


def context_of(settings: Params, workspace: Path, name: str) -> RunContext:
    return open_context(name, "demo", store_of(settings, workspace), workspace)


def released(context: RunContext, key: str, site: str) -> Any:
    data = context.store.get(context.key(key))
    home = SiteHome.find(site, context.workspace)
    return decode(verify(data, home.key().public_key(), what="test"), kind="update")


def test_one_schema_at_every_site(workspace_of: Workspace) -> None:
    settings = params()
    workspace = workspace_of(settings)
    run(settings, run="one", workspace=workspace)
    context = context_of(settings, workspace, "one")
    schema = load_json(context, keys.SCHEMA)
    assert schema is not None
    lattice = SchemaLattice.of(context.contract, settings.anonymisation)
    chosen = lattice.index(schema["levels"])
    assert chosen is not None
    assert max(schema["loss_beyond_optimum"].values()) <= 0.02
    used = settings.anonymisation.model_copy(update={"settled": schema["levels"]})
    assert schema["schema"] == schema_digest(context.contract, used)
    for site in settings.federation.members:
        statistics = released(context, keys.statistics(site), site)
        assert statistics.meta["schema"] == schema["schema"]
        # One byte per node leaves, and its receipt says that no epsilon covers it.
        said = released(context, keys.agreement(site), site)
        assert {name: a.dtype for name, a in said.arrays.items()} == {
            name: np.dtype(np.uint8) for name in said.arrays
        }
        (codes,) = said.arrays.values()
        assert codes.shape == (lattice.size,)
        assert codes[chosen] < BEYOND
        assert list(said.meta["receipt"]["unaccounted"]) == ["agreement"]


def test_a_series_keeps_its_schema(workspace_of: Workspace) -> None:
    """Another optimum later must not give a second view of the same people."""
    settings = params()
    workspace = workspace_of(settings)
    run(settings, run="one", workspace=workspace)
    first = load_json(context_of(settings, workspace, "one"), keys.SCHEMA)
    run(settings, run="two", workspace=workspace)
    context = context_of(settings, workspace, "two")
    assert load_json(context, keys.SCHEMA) == first
    assert first is not None
    lattice = SchemaLattice.of(context.contract, settings.anonymisation)
    (codes,) = released(context, keys.agreement("site-a"), "site-a").arrays.values()
    assert np.flatnonzero(codes != BEYOND).tolist() == [lattice.index(first["levels"])]


def test_lowest_levels_are_kept(workspace_of: Workspace) -> None:
    settings = params("anonymisation.levels={age: 3}")
    workspace = workspace_of(settings)
    run(settings, run="low", workspace=workspace)
    schema = load_json(context_of(settings, workspace, "low"), keys.SCHEMA)
    assert schema is not None
    assert schema["levels"]["age"] >= 3


def test_a_site_with_fewer_rows_than_k_says_so(workspace_of: Workspace) -> None:
    settings = params("anonymisation.k=1000")
    with pytest.raises(FolkmootError) as caught:
        run(settings, run="few", workspace=workspace_of(settings))
    assert caught.value.code == "data.too-few-rows"


@pytest.mark.parametrize("levels", ["{}", '{"age": 99}', '"no"'])
def test_a_coordinator_that_publishes_other_levels(workspace_of: Workspace, levels: str) -> None:
    settings = params()
    workspace = workspace_of(settings)
    store = store_of(settings, workspace)
    store.put(f"demo/runs/forged/{keys.SCHEMA}", f'{{"levels": {levels}}}'.encode())
    with pytest.raises(ProtocolError, match="does not hold levels"):
        run(settings, run="forged", workspace=workspace)


def test_a_site_uses_no_levels_that_its_coordinator_did_not_sign(workspace_of: Workspace) -> None:
    """Who can write to the exchange store could have every site publish finer cells."""
    settings = params()
    workspace = workspace_of(settings)
    run(settings, run="one", workspace=workspace)
    lattice = SchemaLattice.of(contract_for(settings), settings.anonymisation)
    finest = canonical_json({"levels": lattice.levels(0), "missing": {}})
    store = store_of(settings, workspace)
    store.put(f"demo/runs/forged/{keys.SCHEMA}", finest)
    with pytest.raises(FolkmootError, match="is not what the federation's coordinator signed"):
        run(settings, run="forged", workspace=workspace)
    # An order of another run is none for this one.
    signed = store.get(f"demo/runs/one/{keys.SCHEMA}.signature")
    store.put(f"demo/runs/again/{keys.SCHEMA}", store.get(f"demo/runs/one/{keys.SCHEMA}"))
    store.put(f"demo/runs/again/{keys.SCHEMA}.signature", signed)
    with pytest.raises(FolkmootError, match="is not what the federation's coordinator signed"):
        run(settings, run="again", workspace=workspace)


def test_under_masks_the_coordinator_sees_sums_alone(workspace_of: Workspace) -> None:
    """The same schema and the same rows as in the open, and no site's say about any level."""
    plain, masked = params(), params("aggregation.protection=masks", "federation.quorum=3")
    here, there = workspace_of(plain, "plain"), workspace_of(masked, "masked")
    run(plain, run="one", workspace=here)
    result = run(masked, run="one", workspace=there)
    expected = load_json(context_of(plain, here, "one"), keys.SCHEMA)
    context = context_of(masked, there, "one")
    schema = load_json(context, keys.SCHEMA)
    assert schema is not None
    assert expected is not None
    assert (schema["levels"], schema["schema"]) == (expected["levels"], expected["schema"])
    if find_spec("tenseal"):  # the extra folkmoot[ckks]
        other = params("aggregation.protection=ckks", "federation.quorum=3")
        encrypted = workspace_of(other, "encrypted")
        run(other, run="one", workspace=encrypted)
        assert load_json(context_of(other, encrypted, "one"), keys.SCHEMA) == schema
    mean = np.mean([*expected["loss_beyond_optimum"].values()])
    assert schema["loss_beyond_optimum"] == {"*": pytest.approx(mean)}
    for site in masked.federation.members:
        said = released(context, keys.agreement(site), site)
        (vector,) = said.arrays.values()
        assert vector.dtype == np.uint64
        assert vector.max() > 2**60  # a number of the ring, not a count
        assert (
            released(context, keys.masked_statistics(site), site).meta["schema"] == schema["schema"]
        )
    assert sorted(result["participants"]) == list(masked.federation.members)
    # Another sum without one of the sites would open what that site said: the others refuse.
    home = SiteHome.find("site-d", there)
    own = home.settings.anonymisation.model_copy(update={"minimum_k": 50})
    changed = home.settings.model_copy(update={"anonymisation": own})
    save_settings(changed, home.root / "site.toml")
    with pytest.raises(FolkmootError) as caught:
        run(masked, run="two", workspace=there)
    assert caught.value.code == "secure.contributors"


def test_differential_privacy_refuses_it() -> None:
    with pytest.raises(FolkmootError, match="recoding agreed"):
        params(
            "privacy.mechanism=gaussian",
            "privacy.noise_multiplier=1.0",
            "data.scaling=bounds",
            "aggregation.weighting=uniform",
            "model.linear.strategy=fedavg",
        )


def test_the_agreement_is_a_step_of_its_own() -> None:
    settings = params()
    plan = plan_of(settings, contract_for(settings))
    names = [step.name for step in plan]
    assert names.index("agree/settle") < names.index("prepare/recode/site-a")
    assert plan.step("agree/settle").after == tuple(
        f"agree/levels/{site}" for site in settings.federation.members
    )
    assert plan.step("prepare/recode/site-b").inputs == (keys.SCHEMA,)
    masked = plan_of(params("aggregation.protection=masks"), contract_for(settings))
    names = [step.name for step in masked]
    order = ["agree/validate/site-d", "setup/deal", "agree/levels/site-a", "agree/survivors"]
    order += ["agree/unmask/site-d", "agree/settle", "prepare/recode/site-a"]
    order += ["round-000/statistics/site-a", "round-000/initialise"]
    assert sorted(order, key=names.index) == order
    assert names.count("setup/deal") == 1
    assert tuple(step.name for step in masked.opening())[-1] == "round-000/initialise"
    assert not any(
        step.body == "site.agree"
        for step in plan_of(params("anonymisation.recoding=public"), contract_for(settings))
    )
