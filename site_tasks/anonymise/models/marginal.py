"""A model of one of several sensitive columns.

Where a table has more than one sensitive column, classes are counted by the combinations of their
values (:mod:`site_tasks.anonymise.secret`), and each model asks its question of one column after
the other.  A model of one column holds for it whatever the others are: l-diversity of each column
(Machanavajjhala et al., TKDD 2007, section 4.3 discuss several sensitive attributes), t-closeness of
each column, and so on; nothing is promised about what values of two columns together reveal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.models.base import Counts, Figures, Flags, Model

__all__ = ["OfColumn", "by_column"]


@dataclass(frozen=True)
class OfColumn(Model):
    """A model of one column, over counts by combination.

    Parameters
    ----------
    model : Model
        Reads sensitive values of the one column.
    column : str
        Its name.
    index : int
        Its place among the sensitive columns.
    codes : ndarray of int64, shape (combinations + 1,)
        Value of the column in each combination, the missing one last.
    domain : tuple
        Its public values.
    """

    name: ClassVar[str] = "model of one sensitive column"

    model: Model
    column: str
    index: int
    codes: NDArray[np.int64] = field(compare=False, repr=False)
    domain: tuple[Hashable, ...] = field(compare=False, repr=False)

    @property
    def growing(self) -> bool:  # type: ignore[override]
        """As the model of the column: rows that are added to a class are added to its column."""
        return self.model.growing

    @property
    def merging(self) -> bool:
        """As the model of the column."""
        return self.model.merging

    def counts_of(self, counts: Counts) -> NDArray[np.int64]:
        """Rows by value of the column, of rows by combination; shape (..., values + 1)."""
        values = range(len(self.domain) + 1)
        found = [counts[..., self.codes == value].sum(axis=-1) for value in values]
        return np.stack(found, axis=-1).astype(np.int64)

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """See :meth:`Model.measure`."""
        return self.model.measure(self.counts_of(counts), self.counts_of(total))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """See :meth:`Model.holds`."""
        return self.model.holds(self.counts_of(counts), self.counts_of(total))

    def __str__(self) -> str:
        """The model and its column, for people."""
        return f"{self.model} of {self.column}"


def by_column(
    models: Sequence[Model], names: Sequence[str], total: NDArray[Any] | None
) -> Iterator[tuple[str | None, list[Model], NDArray[Any] | None]]:
    """Models of each sensitive column by themselves, with all models of anything else.

    Parameters
    ----------
    models : sequence of Model
    names : sequence of str
        The sensitive columns.
    total : ndarray of int, shape (values,), or None
        Rows of the whole table per value, or combination.

    Yields
    ------
    name, models, total
        Of one column, unwrapped.
    """
    wrapped = [model for model in models if isinstance(model, OfColumn)]
    others = [model for model in models if not isinstance(model, OfColumn)]
    if not wrapped:
        yield (names[0] if names else None), others, total
    for index, name in enumerate(names if wrapped else ()):
        own = [model for model in wrapped if model.index == index]
        counts = None if total is None or not own else own[0].counts_of(total)
        yield name, [*others, *(model.model for model in own)], counts
