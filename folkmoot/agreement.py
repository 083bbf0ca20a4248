"""The agreed schema: one set of levels that all sites of a federation settle on.

::

    site          agree      which nodes of the lattice of levels it could live with, in steps
    coordinator   settle     the node with the least summed loss that all of them satisfy
    site          anonymise  at these levels

Lattice, order of its nodes and steps are public: they follow from contract and params.  A site says
of every node one small number (a code): which of :data:`STEPS` bounds what it would lose there beyond
the node that is best for it, whether it would suppress more than its limit, or that it cannot live
with it.

Under masks (``aggregation.protection``) nobody sees a site's codes: what leaves is the sum over all
sites of their :func:`votes`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.generalisation import check_levels
from folkmoot.hierarchies import hierarchy_of
from folkmoot.params import Anonymisation
from folkmoot.plan import RunContext, keys
from folkmoot.wire import canonical_json

__all__ = [
    "BEYOND",
    "OVER",
    "STEPS",
    "UNIT",
    "SchemaLattice",
    "codes_of",
    "losses_of",
    "schema_digest",
    "settled",
    "votes",
]

#: Loss beyond a site's own optimum, as a share of all cells' information: upper end of each step.
STEPS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
#: Losses of :func:`votes` are whole numbers of this much.
UNIT = STEPS[0]
#: Added to a node's step where a site would suppress more rows than its limit.
OVER = 128
#: Code of a node that a site cannot live with: it loses more than all steps, or breaks a model.
BEYOND = 255
#: More nodes than a release should speak of.
MOST_NODES = 200_000

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class SchemaLattice:
    """All combinations of levels that may be settled on, in the order of a C array.

    Parameters
    ----------
    names : tuple of str
        Quasi-identifiers in the contract's order.
    lowest, highest : tuple of int
        First and last level of each.
    """

    names: tuple[str, ...]
    lowest: tuple[int, ...]
    highest: tuple[int, ...]

    @staticmethod
    def of(contract: Contract, anonymisation: Anonymisation) -> SchemaLattice:
        """From public settings alone.

        Raises
        ------
        ConfigError
            ``config.hierarchy`` or ``config.invalid`` for levels that do not exist, numbers without
            intervals, no quasi-identifier, and lattices of more than 200,000 nodes.
        """
        check_levels(contract, anonymisation)
        columns = contract.with_role("quasi_identifier")
        if not columns:
            raise ConfigError(
                "config.invalid",
                "anonymisation.recoding agreed: the contract has no quasi-identifier.",
                "Give columns role quasi_identifier, or set recoding to public.",
            )
        lowest, highest = [], []
        for column in columns:
            tree = hierarchy_of(column)
            level = max(anonymisation.levels.get(column.name, 0), tree.lowest)
            tree.at(level)
            lowest.append(level)
            highest.append(tree.depth)
        found = SchemaLattice(tuple(c.name for c in columns), tuple(lowest), tuple(highest))
        if found.size > MOST_NODES:
            raise ConfigError(
                "config.invalid",
                f"anonymisation.recoding agreed: there are {found.size} combinations of levels, more "
                f"than {MOST_NODES}.",
                "Give lowest levels (anonymisation.levels), or state a public schema.",
            )
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of levels per column."""
        return tuple(b - a + 1 for a, b in zip(self.lowest, self.highest, strict=True))

    @property
    def size(self) -> int:
        """Number of nodes."""
        return int(np.prod([float(n) for n in self.shape]))

    def levels(self, index: int) -> dict[str, int]:
        """Level by column of a node."""
        node = np.unravel_index(index, self.shape)
        return {
            name: int(i) + low for name, i, low in zip(self.names, node, self.lowest, strict=True)
        }

    def index(self, levels: Mapping[str, int]) -> int | None:
        """Node of levels, or None where it is none of the lattice."""
        if levels.keys() != set(self.names):
            return None
        node = [levels[name] - low for name, low in zip(self.names, self.lowest, strict=True)]
        if any(not 0 <= i < n for i, n in zip(node, self.shape, strict=True)):
            return None
        return int(np.ravel_multi_index(node, self.shape))

    def heights(self, contract: Contract) -> NDArray[np.float64]:
        """Mean loss of every node over all public values; breaks ties without asking anybody."""
        out = np.zeros(self.shape)
        columns = {column.name: column for column in contract.columns}
        for axis, (name, low, size) in enumerate(
            zip(self.names, self.lowest, self.shape, strict=True)
        ):
            tree = hierarchy_of(columns[name])
            most = max(len(tree.domain) - 1, 1)
            means = []
            for level in range(low, low + size):
                groups = tree.at(level)
                means.append(float((np.bincount(groups)[groups] - 1).mean()) / most)
            shape = [-1 if i == axis else 1 for i in range(len(self.shape))]
            out += np.array(means).reshape(shape)
        return np.asarray(out.ravel() / len(self.names))


def codes_of(regret: NDArray[np.float64]) -> Codes:
    """Steps of losses beyond the optimum, rounded up, or ``BEYOND``; shape of ``regret``."""
    codes = np.searchsorted(np.array(STEPS) + 1e-12, regret)
    return np.where(codes < len(STEPS), codes, BEYOND).astype(np.uint8)


def losses_of(codes: Codes) -> NDArray[np.float64]:
    """Most that a site loses at each node beyond its optimum; infinite where it does not satisfy."""
    steps = np.full(256, np.inf)
    steps[: len(STEPS)] = STEPS
    return np.asarray(steps[codes])


def votes(codes: Codes) -> dict[str, NDArray[np.int64]]:
    """What a site adds to the secure sum that levels are settled on by.

    Parameters
    ----------
    codes : ndarray of uint8, shape (nodes,)
        As :func:`codes_of`, with ``OVER`` where the site's limit of suppression would be passed.

    Returns
    -------
    dict of str to ndarray of int64, each of shape (nodes,)
        ``able``: 1 where its loss lies within the steps; ``within``: 1 where it stays within its limit
        as well; ``loss``: its step in units of :data:`UNIT` where it is able, else 0.
    """
    able = codes != BEYOND
    steps = np.zeros(256, np.int64)
    steps[: len(STEPS)] = np.rint(np.array(STEPS) / UNIT)
    loss = np.where(able, steps[np.where(able, codes & ~np.uint8(OVER), 0)], 0)
    return {
        "able": able.astype(np.int64),
        "within": (codes < OVER).astype(np.int64),
        "loss": loss.astype(np.int64),
    }


def schema_digest(contract: Contract, anonymisation: Anonymisation) -> str:
    """SHA-256 (hex) of what decides the feature space of anonymised rows: contract and levels."""
    what = [contract.digest(), sorted(anonymisation.chosen.items())]
    return hashlib.sha256(b"folkmoot-schema-1\0" + canonical_json(what)).hexdigest()


def settled(context: RunContext) -> RunContext:
    """The run's context with the levels that its sites settled on; itself before or without that.

    Raises
    ------
    ProtocolError
        ``protocol.format`` where what was published are no levels of the run's lattice.
    """
    settings = context.params.anonymisation
    if settings.recoding != "agreed" or settings.settled is not None:
        return context
    remembered: RunContext | None = context.cache.get("agreement.settled")
    if remembered is not None and remembered.run == context.run:
        return remembered
    data = context.store.find(context.key(keys.SCHEMA))
    if data is None:
        return context
    lattice = SchemaLattice.of(context.contract, settings)
    try:
        values: Any = json.loads(data)
        levels = {str(name): int(level) for name, level in values["levels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        levels = {}
    if lattice.index(levels) is None:
        raise ProtocolError(
            "protocol.format",
            f"{keys.SCHEMA} does not hold levels of this run's lattice.",
            "Start a new run.",
        )
    chosen = settings.model_copy(update={"settled": levels})
    found = replace(context, params=context.params.model_copy(update={"anonymisation": chosen}))
    context.cache["agreement.settled"] = found
    return found
