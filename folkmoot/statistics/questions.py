"""Which whole numbers answer a question, and how much one record can add to them.

Every answer is a vector of integers, so that sums are exact and a masked one equals the plain one bit
for bit.  Numbers of the table are rounded to a public grid over the contract's bounds; bins and
categories come from the contract alone.  A *part* is one vector of one release:

==================  =======================================  ==========================
part                holds                                    one record adds (L2)
==================  =======================================  ==========================
``categories``      per category of every column, and        1 per column
                    missing values
``classes``         per class of the label                   1
``histogram``       per bin of every number                  1 per column
``moments.count``   values that are not missing              1 per column
``moments.sum``     values over the half width of their      up to 1 per column
                    bounds, centred
``moments.square``  their squares                            up to 1 per column
``quantiles``       below, per bin, above                    1 per column and quantile
``quantiles.tree``  bins of every level of a tree            1 per column and level
``schema``          1 where the table agrees, else why not   no record's business
==================  =======================================  ==========================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.conversion import converted
from folkmoot.errors import ConfigError
from folkmoot.generalisation import bounds_of, is_categorical
from folkmoot.params import Params

__all__ = [
    "BRANCHES",
    "SCHEMA",
    "Part",
    "categorical",
    "check_questions",
    "counted",
    "edges_of",
    "numeric",
    "parts_of",
    "person_of",
    "resolution",
    "start",
    "tree_levels",
]

#: How a table may differ from the contract in one column, in the order of part ``schema``.
SCHEMA = ("agree", "absent", "type", "values")
#: Children of a node of the tree that noised quantiles are read from.
BRANCHES = 4
#: Noised counts are in steps of 2^-20, so that the discrete law is as good as a continuous one.
COUNT_EXPONENT = 20
_FINEST = 24


@dataclass(frozen=True)
class Part:
    """One vector of a release.

    Parameters
    ----------
    name : str
        As in the table above.
    size : int
        How many numbers.
    norm : float
        L2 norm of what one record adds at most; 0 where records add nothing.
    exponent : int
        The numbers are whole steps of ``2^-exponent``.
    """

    name: str
    size: int
    norm: float
    exponent: int = 0


def numeric(params: Params, contract: Contract) -> tuple[Column, ...]:
    """Columns of numbers that are asked about, after their conversion; the numeric label too."""
    found = [c for c in _asked(params, contract) if not is_categorical(c)]
    return tuple(found)


def categorical(params: Params, contract: Contract) -> tuple[Column, ...]:
    """Columns of public categories that are asked about; the label of classes too."""
    return tuple(c for c in _asked(params, contract) if is_categorical(c))


def _asked(params: Params, contract: Contract) -> list[Column]:
    wanted = params.statistics.columns
    columns = [*contract.inputs, contract.label]
    # Shifted dates mean something within one person alone.
    columns = [c for c in columns if c.convert is None or c.convert.to != "days"]
    return [converted(c) for c in columns if wanted is None or c.name in wanted]


def counted(params: Params, contract: Contract) -> tuple[Column, ...]:
    """All columns that a site needs at hand: those asked about, and the label of classes."""
    found = [*numeric(params, contract), *categorical(params, contract)]
    label = converted(contract.label)
    wanted = {"classes", "auc"} & set(params.statistics.ask)
    if wanted and label.name not in {column.name for column in found}:
        found.append(label)
    return tuple(found)


def check_questions(params: Params, contract: Contract) -> None:
    """Refuse questions that the contract gives no answer to.

    Raises
    ------
    ConfigError
        ``config.invalid``, naming the setting and the column.
    """
    asked = params.statistics
    known = {column.name for column in (*contract.inputs, contract.label)}
    foreign = sorted(set(asked.columns or ()) - known)
    if foreign:
        raise _invalid(f"statistics.columns names {', '.join(foreign)}, which no column of the "
                       f"contract that reaches training is called")  # fmt: skip
    numbers = {"moments", "histogram", "quantiles", "median"} & set(asked.ask)
    if numbers and not numeric(params, contract):
        raise _invalid(f"{', '.join(sorted(numbers))} need a column of numbers")
    if "categories" in asked.ask and not categorical(params, contract):
        raise _invalid("categories need a column of public categories")
    if "classes" in asked.ask and not contract.classes:
        raise _invalid("classes need a label of classes")
    if "overlap" in asked.ask:
        person_of(params, contract)
    if "auc" in asked.ask:
        if contract.task != "binary":
            raise _invalid("auc needs a binary label")
        scores = [c.name for c in numeric(params, contract)]
        if asked.score not in scores:
            raise _invalid("statistics.score must name a column of numbers that is asked about")


def person_of(params: Params, contract: Contract) -> str:
    """The direct identifier that people are known by.

    Raises
    ------
    ConfigError
        ``config.invalid`` where there is none, or several and none is named.
    """
    known = [column.name for column in contract.with_role("direct_identifier")]
    wanted = params.statistics.person
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted in known:
        return str(wanted)
    raise _invalid(
        "overlap needs statistics.person to name a direct identifier of the contract"
        + ("" if known else ", which has none")
    )


def resolution(params: Params) -> int:
    """Exponent of the grid of part ``moments.sum``: no sum of squares can pass 2^61; O(1)."""
    rows = math.ceil(math.log2(params.aggregation.rows_limit))
    sites = len(params.federation.members).bit_length()
    return max(1, min(_FINEST, (61 - rows - sites) // 2))


def tree_levels(bins: int) -> int:
    """Levels of the tree whose leaves are at least ``bins``."""
    return max(1, math.ceil(math.log(bins, BRANCHES) - 1e-9))


def edges_of(low: float, high: float, bins: int) -> NDArray[np.float64]:
    """Edges of equal bins from ``low`` to ``high``, float64 (bins + 1,)."""
    edges: NDArray[np.float64] = low + (high - low) * (np.arange(bins + 1) / bins)
    edges[-1] = high
    return edges


def start(params: Params, contract: Contract) -> NDArray[np.float64]:
    """Where quantiles are looked for first, float64 (columns, quantiles, 2): the public bounds.

    Whole numbers lie in the middle of an interval of width 1.
    """
    columns = numeric(params, contract)
    ends = np.array([_ends(column) for column in columns]).reshape(-1, 1, 2)
    return np.repeat(ends, len(params.statistics.quantiles), axis=1)


def _ends(column: Column) -> tuple[float, float]:
    low, high = bounds_of(column)
    return (low - 0.5, high + 0.5) if column.type == "integer" else (low, high)


def parts_of(params: Params, contract: Contract, round: int) -> tuple[Part, ...]:
    """Parts of every site's release in a round of sums; O(columns).

    Parameters
    ----------
    params, contract
        Of the run.
    round : int
        From 1; the first round of sums answers everything, later ones refine quantiles.
    """
    asked, noised = params.statistics, params.privacy.private
    stages = asked.stages(noised=noised)
    first = stages.index("sum") + 1
    numbers, groups = numeric(params, contract), categorical(params, contract)
    d, counted, grid = len(numbers), COUNT_EXPONENT if noised else 0, resolution(params)
    one = math.sqrt(d)
    known = {
        "categories": [
            Part(
                "categories",
                sum(len(c.categories or ()) + 1 for c in groups),
                math.sqrt(len(groups)),
                counted,
            )
        ],
        "classes": [Part("classes", len(contract.classes), 1.0, counted)],
        "histogram": [Part("histogram", d * asked.bins, one, counted)],
        "moments": [
            Part("moments.count", d, one, counted),
            Part("moments.sum", d, one, grid),
            Part("moments.square", d, one, 2 * grid),
        ],
        "quantiles": [_quantiles(params, d)],
        "schema": [Part("schema", len(contract.columns) * len(SCHEMA), 0.0)],
    }
    names = asked.summed if round == first else ("quantiles",)
    return tuple(part for name in names for part in known[name])


def _quantiles(params: Params, columns: int) -> Part:
    asked = params.statistics
    if params.privacy.private:
        levels = tree_levels(asked.bins)
        size = sum(BRANCHES**level for level in range(1, levels + 1))
        return Part("quantiles.tree", columns * size, math.sqrt(columns * levels), COUNT_EXPONENT)
    many = columns * len(asked.quantiles)
    return Part("quantiles", many * (asked.bins + 2), math.sqrt(many))


def _invalid(what: str) -> ConfigError:
    return ConfigError(
        "config.invalid", f"{what}.", "Change statistics in params.yaml, or the contract."
    )
