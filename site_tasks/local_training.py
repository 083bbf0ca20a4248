"""Local training: seeded mini-batch gradient descent on a site's share of the objective.

The federation minimises ``F(w) = sum of all rows' losses + l2/2 |coef|²``.  A site descends on its
own rows' mean loss plus the penalty's share, so that the weighted mean of all sites' objectives is
F but for a factor: with rows as weights that is ``l2 / all rows``, with uniform weights
``l2 / (sites · own rows)``.

* FedAvg: McMahan et al. 2017, arXiv 1602.05629.
* FedProx adds ``mu/2 |w - w_global|²``: Li et al. 2020, arXiv 1812.06127.
* SCAFFOLD subtracts the site's drift ``c_site - c``: Karimireddy et al. 2020, arXiv 1910.06378.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.linear_loss import gradient
from site_tasks.scaled import ScaledRows

__all__ = ["descend", "generator"]

Floats = NDArray[np.float64]


def generator(seed: int, round: int, site: str) -> np.random.Generator:
    """Random order of a site's rows in a round: the same on every host and on every try."""
    name = int.from_bytes(hashlib.sha256(site.encode()).digest()[:16])
    return np.random.default_rng([seed, round, name])


def descend(
    task: str,
    start: Floats,
    rows: ScaledRows,
    rng: np.random.Generator,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    l2: float,
    proximal: float = 0.0,
    correction: Floats | None = None,
) -> tuple[Floats, int]:
    """Take ``epochs`` passes of gradient steps; O(epochs · n · d · K).

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
    start : ndarray of float64, shape (K, d + 1)
        The global model.
    rows : ScaledRows
        Training rows.
    rng : numpy.random.Generator
        Order of the rows.
    epochs, batch_size, learning_rate
        As in ``params.model.linear``.
    l2 : float
        The site's share of the penalty, per row.
    proximal : float
        FedProx's mu; 0 for the others.
    correction : ndarray of float64, shape (K, d + 1), optional
        SCAFFOLD's ``c - c_site``, added to every gradient.

    Returns
    -------
    w : ndarray of float64, shape (K, d + 1)
    steps : int
        Gradient steps taken.
    """
    w = np.array(start)
    steps = 0
    # Sample weights with mean 1 keep the learning rate's meaning.
    mean_weight = rows.weight / len(rows)
    fixed: Any = 0.0 if correction is None else correction
    for _ in range(epochs):
        for x, y, weights in rows.batches(rng, batch_size):
            slope = gradient(task, w, x, y, None if weights is None else weights / mean_weight)
            slope /= len(y)
            slope[:, :-1] += l2 * w[:, :-1]
            if proximal:
                slope += proximal * (w - start)
            slope += fixed
            w -= learning_rate * slope
            steps += 1
    return w, steps
