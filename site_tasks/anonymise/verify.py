"""A slow, obvious checker that re-proves every privacy model on an anonymised table.

It shares nothing with the engine but the parameters of the models: plain Python over the cells as
they are published, exact fractions instead of floating point, and the definitions of the papers
instead of what the engine made of them.  A class is what somebody who sees the table can tell
apart, rows whose published cells are equal; the engine's own idea of classes is never asked.  A
missing value is a value.  Nothing is written before it agrees.

Time O(rows · columns + classes · values), memory O(classes · values).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from folkmoot.errors import PrivacyError
from site_tasks.anonymise.definitions import breaks, exact
from site_tasks.anonymise.models import DeltaPresence, KMap, Model

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checker", "refuse", "verify_frame"]

Class = tuple[Hashable, ...]


class Checker:
    """Collects the rows of a table, in any number of pieces, and says which models are broken.

    Parameters
    ----------
    models : sequence of Model
        Their parameters are read, none of their methods.
    domain : sequence, optional
        Sensitive values in their public order; a value that is not named (a missing one) comes
        last.  Needed by ordered and hierarchical t-closeness.
    """

    def __init__(self, models: Sequence[Model], domain: Sequence[Hashable] = ()) -> None:
        self.models = tuple(models)
        self._rank = {value: i for i, value in enumerate(domain)}
        self._classes: dict[Class, Counter[Hashable]] = defaultdict(Counter)
        self._population: Counter[Class] | None = None
        self.rows = 0

    def add(
        self, cells: Sequence[Iterable[Any]], sensitive: Iterable[Any] | None = None, *, rows: int
    ) -> None:
        """Take in rows as they will be published.

        Parameters
        ----------
        cells : sequence of iterables
            One per quasi-identifier, each with one hashable cell per row; None and NaN are missing.
        sensitive : iterable, optional
            Sensitive value of every row.
        rows : int
            How many rows each of them must have.
        """
        columns = [[_plain(cell) for cell in column] for column in cells]
        secret = [None] * rows if sensitive is None else [_plain(value) for value in sensitive]
        for column in [*columns, secret]:
            if len(column) != rows:
                raise ValueError("every column must have as many rows as the table")
        of = zip(*columns, strict=True) if columns else [()] * rows
        for (cell, value), count in Counter(zip(of, secret, strict=True)).items():
            self._classes[cell][value] += count
        self.rows += rows

    def add_population(self, cells: Sequence[Iterable[Any]]) -> None:
        """Take in people of the population table, recoded as the table's rows are."""
        columns = [[_plain(cell) for cell in column] for column in cells]
        if self._population is None:
            self._population = Counter()
        self._population.update(zip(*columns, strict=True))

    def problems(self) -> list[str]:
        """What is broken, a sentence per model without any value; empty where all hold."""
        out = []
        whole: Counter[Hashable] = Counter()
        for values in self._classes.values():
            whole.update(values)
        for model in self.models:
            if isinstance(model, KMap | DeltaPresence):
                broken = self._absent(model)
            else:
                fails = breaks(model, whole, self._rank)
                broken = sum(fails(values) for values in self._classes.values())
            if broken:
                out.append(f"{model} does not hold in {broken} of {len(self._classes)} classes")
        return out

    def demand(self, site: str | None = None) -> None:
        """Refuse the table where a model is broken.

        Raises
        ------
        PrivacyError
            ``privacy.unproven``, naming the models and the number of classes.
        """
        refuse(self.problems(), site)

    def _absent(self, model: KMap | DeltaPresence) -> int:
        people = self._population
        if people is None:
            return max(len(self._classes), 1)  # nothing proves it
        broken = 0
        for cell in people.keys() | self._classes.keys():
            here = sum(self._classes[cell].values()) if cell in self._classes else 0
            if here > people[cell]:
                broken += 1  # somebody in the table is not in the population
            elif isinstance(model, KMap):
                broken += here > 0 and people[cell] < model.k
            else:
                share = Fraction(here, people[cell])
                broken += not exact(model.low) <= share <= exact(model.high)
        return broken


def verify_frame(
    frame: pd.DataFrame,
    quasi_identifiers: Sequence[str],
    models: Sequence[Model],
    *,
    sensitive: str | None = None,
    domain: Sequence[Hashable] = (),
    columns: Iterable[str] | None = None,
    population: pd.DataFrame | None = None,
    site: str | None = None,
) -> None:
    """Prove a table as it is about to be written, whatever made it.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table to publish.
    quasi_identifiers : sequence of str
        Columns that make the classes.
    models : sequence of Model
        What was asked for.
    sensitive : str, optional
        The sensitive column.
    domain : sequence, optional
        Its values in public order.
    columns : iterable of str, optional
        The only columns that may be written.
    population : pandas.DataFrame, optional
        The population table, recoded alike.
    site : str, optional
        Whose table it is.

    Raises
    ------
    PrivacyError
        ``privacy.unproven``: a broken model, another column than allowed, or an index that tells
        where in the original table a row stood.
    """
    problems = []
    if columns is not None:
        extra = sorted(set(map(str, frame.columns)) - set(columns))
        if extra:
            problems.append(f"columns {', '.join(extra)} must not be published")
    if frame.index.tolist() != list(range(len(frame))):
        problems.append("the index tells where in the original table a row stood")
    checker = Checker(models, domain)
    secret = None if sensitive is None else frame[sensitive].tolist()
    if secret is None and any(model.reads == "sensitive" for model in models):
        problems.append("a model of sensitive values cannot be proven without a sensitive column")
    checker.add([frame[c].tolist() for c in quasi_identifiers], secret, rows=len(frame))
    if population is not None:
        checker.add_population([population[c].tolist() for c in quasi_identifiers])
    refuse(problems + checker.problems(), site)


def refuse(problems: Sequence[str], site: str | None) -> None:
    """Raise `PrivacyError` (``privacy.unproven``) where there are problems, and name them."""
    if problems:
        raise PrivacyError(
            "privacy.unproven",
            f"The anonymised table is not what was asked for: {'; '.join(problems)}.",
            "Nothing was written. Report this as a fault of the anonymiser, with the parameters "
            "and without the table.",
            site=site,
        )


def _plain(cell: Any) -> Hashable:
    """A missing cell as None, whichever way it is written: NaN is not even equal to itself."""
    try:
        return None if cell is None or cell != cell else cell
    except TypeError:  # pandas.NA does not say whether it is equal to itself
        return None
