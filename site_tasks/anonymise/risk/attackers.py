"""How likely somebody is re-identified, by what the attacker knows.

El Emam, Dankar: Protecting privacy using k-anonymity (JAMIA 15(5), 2008): a *prosecutor* knows that
a person is in the table, a *journalist* finds somebody of the population in it, a *marketer* tries
to link everybody.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["THRESHOLD", "Risk", "Risks", "risks"]

#: A row is at risk where it is found with a larger probability (classes of less than five).
THRESHOLD = 0.2


@dataclass(frozen=True)
class Risk:
    """One attacker's chances over the rows of a table.

    Parameters
    ----------
    highest, average : float
        Probability that a row is re-identified, at worst and on average.
    at_risk : float
        Share of the rows for which it exceeds the threshold.
    """

    highest: float
    average: float
    at_risk: float


@dataclass(frozen=True)
class Risks:
    """All attackers.

    Parameters
    ----------
    prosecutor, journalist : Risk
        Without a population table a journalist is taken to know who is in the table.
    marketer : float
        Share of the rows that are linked correctly, as expected.
    """

    prosecutor: Risk
    journalist: Risk
    marketer: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def risks(
    sizes: NDArray[Any], people: NDArray[Any] | None = None, threshold: float = THRESHOLD
) -> Risks:
    """Risks of a table's rows.

    Parameters
    ----------
    sizes : ndarray of int, shape (classes,)
        Rows of every class.
    people : ndarray of int, shape (classes,), optional
        People of the population in each, those of the table included.
    threshold : float
        Above which a row is at risk.
    """
    known = _risk(sizes, sizes, threshold)
    outside = known if people is None else _risk(sizes, people, threshold)
    return Risks(known, outside, outside.average)


def _risk(sizes: NDArray[Any], people: NDArray[Any], threshold: float) -> Risk:
    rows = int(sizes.sum())
    if not rows:
        return Risk(0.0, 0.0, 0.0)
    found = 1.0 / people
    exposed = sizes[found > threshold * (1 + 1e-12)].sum()
    return Risk(float(found.max()), float(sizes @ found / rows), float(exposed / rows))
