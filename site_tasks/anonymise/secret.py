"""The sensitive columns of a table as one code per row.

One column keeps its own codes.  Of several the code is that of their combination, a missing value
among each one's values, so that engines count one thing; the models look at one column each
(:class:`site_tasks.anonymise.models.marginal.OfColumn`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError
from site_tasks.anonymise.coded import Column, encode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Secret"]

#: Classes are counted by combination: more of them would take more memory than the table.
MOST = 4096


@dataclass(frozen=True)
class Secret:
    """Sensitive columns, one at least.

    Parameters
    ----------
    columns : tuple of Column

    Raises
    ------
    ConfigError
        ``config.invalid`` for more than 4096 combinations of values.
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if len(self.columns) > 1 and math.prod(c.size for c in self.columns) > MOST:
            raise ConfigError(
                "config.invalid",
                f"Sensitive columns {', '.join(self.names)} have more than {MOST} combinations of "
                "values.",
                "Name fewer in anonymisation.sensitive, or give them coarser public categories.",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        """Public values: of the one column, or all combinations with None where one is missing."""
        if len(self.columns) == 1:
            return self.columns[0].domain
        return tuple(itertools.product(*((*column.domain, None) for column in self.columns)))

    def codes(self, index: int) -> NDArray[np.int64]:
        """Value of a column in each combination; shape (len(domain) + 1,), missing last."""
        column = self.columns[index]
        if len(self.columns) == 1:
            return np.arange(column.size)
        shape = [c.size for c in self.columns]
        place = np.unravel_index(np.arange(math.prod(shape)), shape)[index]
        return np.append(place, column.missing).astype(np.int64)

    def encode(self, frame: pd.DataFrame) -> NDArray[np.int32]:
        """Code of every row; shape (n,).

        Raises
        ------
        DataError
            ``data.contract`` for values outside the public domain, with column and count.
        """
        found = [encode(frame[column.name], column) for column in self.columns]
        if len(found) == 1:
            return found[0]
        shape = [column.size for column in self.columns]
        return np.ravel_multi_index(found, shape).astype(np.int32)

    def spelled(self, frame: pd.DataFrame) -> list[Any]:
        """Value of every row as the public domain writes it; of several columns a tuple."""
        names = [*self.domain, None]
        return [names[code] for code in self.encode(frame).tolist()]

    def apart(self, codes: NDArray[Any]) -> dict[str, tuple[NDArray[Any], int]]:
        """Codes of each column by itself, and how many there are, from those of combinations."""
        return {
            column.name: (self.codes(i)[codes], column.size)
            for i, column in enumerate(self.columns)
        }

    @staticmethod
    def of(columns: Sequence[Column]) -> Secret | None:
        """None of no columns."""
        return Secret(tuple(columns)) if columns else None
