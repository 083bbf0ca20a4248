"""Proves what an engine made of a coded table: that cells allow what they stand for, then the models.

For tables that are recoded class by class: a cell is the set of codes that it allows.  The models
themselves are proven by :class:`site_tasks.anonymise.verify.Checker`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from site_tasks.anonymise.models import Model
from site_tasks.anonymise.verify import Checker, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from site_tasks.anonymise.coded import Coded
    from site_tasks.anonymise.recoding import Recoding

__all__ = ["RecodingChecker", "people_cells", "verify_recoding"]

#: Rows looked at together, so that memory does not grow with the table.
_PIECE = 100_000


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
        refuse(found + self._checker.problems(), site)


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
