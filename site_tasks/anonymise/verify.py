"""A slow, obvious checker that re-proves every privacy model on an anonymised table.

It shares nothing with the engine but the parameters of the models: plain Python over the cells as
they are published, exact fractions instead of floating point, and the definitions of the papers
instead of what the engine made of them.  A class is what somebody who sees the table can tell
apart, rows whose published cells are equal; the engine's own idea of classes is never asked.  A
missing value is a value.  Nothing is written before it agrees.

Time O(rows · columns + classes · values), memory O(classes · values).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from folkmoot.errors import PrivacyError
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DeltaPresence,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    Model,
    RecursiveCLDiversity,
    TCloseness,
)
from site_tasks.anonymise.models.marginal import OfColumn

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from site_tasks.anonymise.coded import Coded, Recoding

__all__ = ["Checker", "RecodingChecker", "people_cells", "verify_frame", "verify_recoding"]

#: For logarithms alone, which have no exact value; everything else is compared exactly, but for
#: this much where a bound may be reached.
ROUNDING = 1e-9
#: Rows looked at together, so that memory does not grow with the table.
_PIECE = 100_000
Class = tuple[Hashable, ...]
Rows = Mapping[Hashable, int]
Rank = Mapping[Hashable, int]


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
                fails = self._test(model, whole, self._rank)
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
        _refuse(self.problems(), site)

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

    def _test(self, model: Model, whole: Rows, rank: Rank) -> Callable[[Rows], bool]:
        """What breaks the model in a class."""
        n = sum(whole.values())
        match model:
            case OfColumn(model=own):
                fails = self._test(own, _of_column(model, whole), _rank_of(model, whole))
                return lambda rows: fails(_of_column(model, rows))
            case KAnonymity(k=k):
                return lambda rows: sum(rows.values()) < k
            case DistinctLDiversity(l=l):
                return lambda rows: len(rows) < l
            case EntropyLDiversity(l=l):
                return lambda rows: _entropy(rows) < math.log(l) - ROUNDING
            case RecursiveCLDiversity(c=c, l=l):
                return lambda rows: not _most(rows) < exact(c) * _tail(rows, l)
            case TCloseness(t=t):
                return lambda rows: _distance(model, rows, whole, rank) > exact(t) + exact(ROUNDING)
            case AlphaK(alpha=alpha, k=k):
                return lambda rows: (
                    sum(rows.values()) < k or _most(rows) > exact(alpha) * sum(rows.values())
                )
            case BetaLikeness(beta=beta, enhanced=enhanced):
                return lambda rows: any(
                    Fraction(count, sum(rows.values())) > p and _gains(count, rows, p) > bound
                    for value, count in rows.items()
                    for p in [Fraction(whole[value], n)]
                    for bound in [min(beta, -math.log(p)) if enhanced else beta]
                )
            case DeltaDisclosure(delta=delta, absent=absent):
                return lambda rows: (
                    (not absent and len(rows) < len(whole))
                    or any(
                        abs(
                            math.log(
                                Fraction(count, sum(rows.values())) / Fraction(whole[value], n)
                            )
                        )
                        >= delta + ROUNDING
                        for value, count in rows.items()
                    )
                )
        return lambda rows: True  # a model nobody here knows is not proven


def verify_recoding(
    coded: Coded,
    recoding: Recoding,
    models: Sequence[Model],
    *,
    population: Sequence[Iterable[Any]] | None = None,
    people: Coded | None = None,
    site: str | None = None,
) -> None:
    """Prove an engine's output before it is written.

    A cell is what it allows.  Besides the models: every row is there or suppressed, and every cell
    allows the value that it stands for.

    Parameters
    ----------
    coded : Coded
        The table before.
    recoding : Recoding
        What the engine made of it.
    models : sequence of Model
        What was asked for.
    population : sequence of iterables, optional
        Cells of the population table per quasi-identifier, as frozen sets of allowed codes.
    people : Coded, optional
        The population table as it is, where cells differ from class to class: each person then
        stands behind every class whose cells allow them.
    site : str, optional
        Whose table it is.

    Raises
    ------
    PrivacyError
        ``privacy.unproven``.
    """
    problems = []
    rows = len(recoding.classes)
    if rows != coded.rows:
        problems.append(f"{abs(coded.rows - rows)} rows are neither kept nor suppressed")
        rows = min(rows, coded.rows)
    domain = None if coded.sensitive is None else coded.sensitive_domain
    proof = RecodingChecker(recoding, models, domain)
    for start in range(0, rows, _PIECE):
        piece = slice(start, min(start + _PIECE, rows))
        secret = None if coded.sensitive is None else coded.sensitive[piece]
        proof.add(coded.codes[piece], recoding.classes[piece], secret)
    if people is not None:
        proof.add_people(people_cells(recoding, people))
    elif population is not None:
        proof.add_population(population)
    proof.demand(site, problems)


class RecodingChecker:
    """Proves an engine's output piece by piece; memory O(classes · columns + distinct cells).

    Parameters
    ----------
    recoding : Recoding
        Its cells; the classes of rows come with the rows.
    models : sequence of Model
        What was asked for.
    domain : sequence, optional
        Public values of the sensitive column, where there is one.
    """

    def __init__(
        self, recoding: Recoding, models: Sequence[Model], domain: Sequence[Any] | None = None
    ) -> None:
        self._names = [column.name for column in recoding.columns]
        self._checker = Checker(models, range(len(domain or ())))
        self._unproven = domain is None and any(model.reads == "sensitive" for model in models)
        #: Equal cells get one number: quicker to compare.
        self._same: list[dict[frozenset[int], int]] = []
        self._numbers: list[list[int]] = []
        for j in range(len(recoding.columns)):
            same: dict[frozenset[int], int] = {}
            numbers: list[int] = []
            allowed = recoding.allowed(j)
            for start in range(0, len(allowed), _PIECE):
                for row in allowed[start : start + _PIECE].tolist():
                    cell = frozenset(value for value, yes in enumerate(row) if yes)
                    numbers.append(same.setdefault(cell, len(same)))
            self._same.append(same)
            self._numbers.append(numbers)
        self._cells = [list(same) for same in self._same]
        self._outside = [0] * len(recoding.columns)
        #: Rows taken in, those that are suppressed among them.
        self.rows = 0

    def add(
        self, codes: NDArray[Any], classes: NDArray[Any], sensitive: NDArray[Any] | None = None
    ) -> None:
        """Take in rows, shape (n, q), with the class of each (-1: suppressed) and its secret."""
        every = classes.tolist()
        kept = [i for i, number in enumerate(every) if number >= 0]
        of = [every[i] for i in kept]
        cells = [[numbers[n] for n in of] for numbers in self._numbers]
        for j, allowed in enumerate(self._cells):
            values = codes[:, j].tolist()
            self._outside[j] += sum(
                values[i] not in allowed[cell] for i, cell in zip(kept, cells[j], strict=True)
            )
        secret = None
        if sensitive is not None:
            known = sensitive.tolist()
            secret = [known[i] for i in kept]
        self._checker.add(cells, secret, rows=len(kept))
        self.rows += len(every)

    def add_people(self, classes: Sequence[int]) -> None:
        """Take in people of the population by the classes that they stand behind."""
        self._checker.add_population([[number[n] for n in classes] for number in self._numbers])

    def add_population(self, cells: Sequence[Iterable[Any]]) -> None:
        """Take in people of the population by their cells, frozen sets of allowed codes."""
        self._checker.add_population(
            [
                [same.get(cell, (None, cell)) for cell in people]
                for same, people in zip(self._same, cells, strict=True)
            ]
        )

    def demand(self, site: str | None = None, problems: Sequence[str] = ()) -> None:
        """Refuse what is broken, and what others found; see :func:`verify_recoding`."""
        found = list(problems)
        for name, wrong in zip(self._names, self._outside, strict=True):
            if wrong:
                found.append(f"{wrong} cells of {name} do not allow their own value")
        if self._unproven:
            found.append("a model of sensitive values cannot be proven without a sensitive column")
        _refuse(found + self._checker.problems(), site)


def people_cells(recoding: Recoding, people: Coded) -> list[int]:
    """Behind which classes the people of a population stand, as the cells say.

    Parameters
    ----------
    recoding : Recoding
        Classes with cells of their own.
    people : Coded
        The population, over the same columns.

    Returns
    -------
    list of int
        A class for every person and every combination of cells that allows them; of classes with
        equal cells the first one.
    """
    sets = [
        [frozenset(v for v, yes in enumerate(row) if yes) for row in recoding.allowed(j).tolist()]
        for j in range(len(recoding.columns))
    ]
    first: dict[tuple[frozenset[int], ...], int] = {}
    for number, cells in enumerate(zip(*sets, strict=True)):
        first.setdefault(cells, number)
    allowing: list[dict[int, set[int]]] = [defaultdict(set) for _ in recoding.columns]
    for cells, number in first.items():
        for column, cell in zip(allowing, cells, strict=True):
            for value in cell:
                column[value].add(number)
    out = []
    for person, count in Counter(map(tuple, people.codes.tolist())).items():
        found = sorted(
            (column.get(value, set()) for column, value in zip(allowing, person, strict=True)),
            key=len,
        )
        for number in sorted(set.intersection(*found)):
            out.extend([number] * count)
    return out


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
    _refuse(problems + checker.problems(), site)


def exact(number: float) -> Fraction:
    """The decimal number that was written, not the binary one nearest to it."""
    return Fraction(str(number))


def _refuse(problems: Sequence[str], site: str | None) -> None:
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


def _distance(model: TCloseness, rows: Rows, whole: Rows, rank: Rank) -> Fraction:
    """Earth mover's distance by the paper's ground distances."""
    here, n = sum(rows.values()), sum(whole.values())
    extra = {v: Fraction(rows.get(v, 0), here) - Fraction(whole[v], n) for v in whole}
    if model.distance == "equal":
        return sum((x for x in extra.values() if x > 0), Fraction(0))
    last = len(rank)
    if model.distance == "ordered":
        ranked = sorted(extra, key=lambda value: rank.get(value, last))
        moved, carried = Fraction(0), Fraction(0)
        for value in ranked:
            carried += extra[value]  # earth carried on to the next value, or owed by it
            moved += abs(carried)
        return moved / max(len(ranked) - 1, 1)
    # A tree whose edges weigh 1 / 2H each: every edge carries what its subtree has too much.
    height = len(model.levels)
    moved = sum((abs(x) for x in extra.values()), Fraction(0))
    for level in model.levels[:-1]:
        nodes: dict[int, Fraction] = defaultdict(Fraction)
        for value, x in extra.items():
            nodes[level[rank.get(value, last)]] += x
        moved += sum((abs(x) for x in nodes.values()), Fraction(0))
    return moved / (2 * height)


def _of_column(model: OfColumn, rows: Rows) -> Counter[Hashable]:
    """Rows by the value of one column, of rows by the values of several."""
    out: Counter[Hashable] = Counter()
    for value, count in rows.items():
        out[_one_of(model, value)] += count
    return out


def _one_of(model: OfColumn, value: Any) -> Hashable:
    """The column's value in a combination, which is a tuple or the engine's code of one."""
    one: Hashable = value[model.index] if isinstance(value, tuple) else int(model.codes[value])
    return one


def _rank_of(model: OfColumn, whole: Rows) -> Rank:
    coded = not all(isinstance(value, tuple) for value in whole)
    values = range(len(model.domain)) if coded else model.domain
    return {value: i for i, value in enumerate(values)}


def _most(rows: Rows) -> int:
    return max(rows.values())


def _tail(rows: Rows, l: int) -> int:  # noqa: E741 - the literature's name
    return sum(sorted(rows.values(), reverse=True)[l - 1 :])


def _entropy(rows: Rows) -> float:
    n = sum(rows.values())
    return -math.fsum(count / n * math.log(count / n) for count in rows.values())


def _gains(count: int, rows: Rows, p: Fraction) -> float:
    """(q - p) / p, less the rounding that is allowed."""
    return float(Fraction(count, sum(rows.values())) / p - 1) - ROUNDING
