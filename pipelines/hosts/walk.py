"""What every host needs to know while it walks a plan: which rounds are done, where rounds end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from folkmoot.contract import Contract, load_contract
from folkmoot.errors import ConfigError
from folkmoot.identity import Roster
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step, keys

__all__ = ["contract_for", "ending", "ensure_members", "last_round", "record", "roster_for"]


def record(context: RunContext, round: int) -> dict[str, Any] | None:
    """Record of a finished round, or None."""
    data = context.store.find(context.key(keys.record(round)))
    if data is None:
        return None
    values: dict[str, Any] = json.loads(data)
    return values


def last_round(context: RunContext) -> int:
    """Highest round in a row that has a record; 0 before the first."""
    round = 0
    while round < context.params.rounds and record(context, round + 1) is not None:
        round += 1
    return round


def ending(step: Step, last: int) -> Step:
    """A ``final/`` step of the plan, bound to the round that really was the last."""
    model = keys.model(step.round)
    inputs = tuple(keys.model(last) if key == model else key for key in step.inputs)
    return replace(step, round=last, inputs=inputs)


def contract_for(params: Params) -> Contract:
    """The contract that ``data.contract`` names, or the recipe's own."""
    if params.data.contract is not None:
        return load_contract(params.data.contract)
    from pipelines.recipes import contract_of

    return contract_of(params.data)


def ensure_members(params: Params, workspace: Path, say: Callable[[str], None]) -> None:
    """Make a recipe's sites where they are absent; real sites stand as they are."""
    from pipelines.simulation import ensure_sites

    ensure_sites(params, workspace, say)


def roster_for(workspace: Path) -> Roster:
    """The federation's roster, with this workspace's coordinator on it.

    Raises
    ------
    ConfigError
        Where nobody is enrolled.
    """
    roster = Roster.load(workspace / "roster.toml")
    if not roster.keys:
        raise ConfigError(
            "config.missing-file",
            f"{workspace / 'roster.toml'} lists no site.",
            "Make sites with `folkmoot data make`, or enrol real ones with `folkmoot site enrol`.",
        )
    from pipelines.coordinator.identity import with_coordinator

    return with_coordinator(roster, workspace)
