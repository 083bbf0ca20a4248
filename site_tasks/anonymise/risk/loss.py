"""What anonymisation cost: how much less the published cells say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from site_tasks.anonymise.coded import Coded
    from site_tasks.anonymise.recoding import Recoding

__all__ = ["Loss", "loss"]


@dataclass(frozen=True)
class Loss:
    """Information loss of a recoding.

    Parameters
    ----------
    gcp : float
        Global certainty penalty (Ghinita, Karras, Kalnis, Mamoulis: VLDB 2007): mean over all cells
        of (values allowed - 1) / (values of the domain - 1), a suppressed row counting 1.
    ncp : dict of str to float
        Normalised certainty penalty (Xu et al.: KDD 2006) per column: the same mean over it.
    discernibility : int
        Discernibility metric (Bayardo & Agrawal: ICDE 2005): every row costs the size of its class,
        a suppressed one the size of the table.
    average_class : float
        C_avg (LeFevre, DeWitt, Ramakrishnan: ICDE 2006): mean class size over k.
    entropy : float
        Non-uniform entropy (Gionis & Tassa: IEEE TKDE 21(2), 2009): bits that the cells no longer
        tell about the values behind them, over the bits that they told; 0 nothing lost, 1 all.
    """

    gcp: float
    ncp: dict[str, float]
    discernibility: int
    average_class: float
    entropy: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def loss(
    coded: Coded, recoding: Recoding, k: int = 1, counts: NDArray[np.int64] | None = None
) -> Loss:
    """Measure the loss of a recoding; O(rows · columns + classes · domains).

    Parameters
    ----------
    coded : Coded
        The table before.
    recoding : Recoding
        What became of it.
    k : int
        What C_avg is relative to.
    counts : ndarray of int64, shape (n,), optional
        How many rows of the table each row stands for; one when absent.
    """
    n = coded.rows if counts is None else int(counts.sum())
    if not n:
        return Loss(0.0, {}, 0, 0.0, 0.0)
    sizes = recoding.sizes(counts)
    suppressed = n - int(sizes.sum())
    ncp = (sizes @ recoding.losses() + suppressed) / n if recoding.count else np.ones(0)
    used = int(np.count_nonzero(sizes))
    discernibility = int((sizes * sizes).sum()) + suppressed * n
    average = (n - suppressed) / used / max(k, 1) if used else 0.0
    names = [column.name for column in recoding.columns]
    by_column = dict(zip(names, map(float, ncp), strict=False)) or dict.fromkeys(names, 1.0)
    lost = _entropy(coded, recoding, counts)
    gcp = float(np.mean(list(by_column.values()))) if by_column else 0.0
    return Loss(gcp, by_column, discernibility, float(average), lost)


def _entropy(coded: Coded, recoding: Recoding, rows: NDArray[np.int64] | None) -> float:
    kept = recoding.classes >= 0
    of = recoding.classes[kept]
    rows = np.ones(coded.rows, np.int64) if rows is None else rows
    n = int(rows.sum())
    lost = told = 0.0
    for j, column in enumerate(recoding.columns):
        codes = coded.codes[:, j]
        counts = np.zeros(column.size, np.int64)
        np.add.at(counts, codes, rows)
        bits = np.log2(n / np.maximum(counts, 1))
        told += float(counts @ bits)
        lost += float(rows[~kept] @ bits[codes[~kept]])
        if len(of):
            behind = recoding.allowed(j) @ counts.astype(np.float64)
            gone = np.log2(np.maximum(behind, 1))[of]
            gone -= np.log2(np.maximum(counts, 1))[codes[kept]]
            lost += float(rows[kept] @ gone)
    return lost / told if told else 0.0
