"""Canaries in gradient space: how much of one record shows in the sums that sites really release.

The attacker of the definition knows every other record, and may choose the record in question and
every model it is asked about.  His best choice is a gradient of full norm along a direction of its
own.  So canary i is a row along axis i: through the site's own code (clipping, grid, sum, noise) it
moves coordinate i of a release by the clip norm, and nothing else.  As many canaries as there are
coordinates are put in by fair coins and audited at once; their noise is independent.

A canary's gradient changes its sign from round to round, and so does the weight of each round in
its score.  For honest noise this makes no difference; noise that was drawn once for two releases
cancels, and is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from folkmoot.params import Privacy, parse_params
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.calibrate import noise_multiplier
from folkmoot.privacy.noise import Entropy
from folkmoot.privacy.planned import FACTOR_EXPONENT, ROW_EXPONENT, Release
from folkmoot.privacy.shares import Shares
from site_tasks.private.records import Records, gradient_sum, integer_rows
from site_tasks.privatise import ClippedSum, privatise

__all__ = ["CLIP", "Rows", "Scores", "gradient_space", "privacy_of"]

Floats = NDArray[np.float64]
CLIP = 1.0
#: Norm of a canary's row: its gradient is twice the clip norm, so that clipping has work to do.
_ROW = 4.0


@dataclass(frozen=True)
class Scores:
    """Scores of canaries, and what was claimed of them.

    Parameters
    ----------
    inside, outside : ndarray of float64
        Of those that were put in, and left out; one number each.
    claimed, delta : float
        What the accountant says of the releases' events.
    """

    inside: Floats
    outside: Floats
    claimed: float
    delta: float


def gradient_space(
    budget: float,
    delta: float,
    *,
    rounds: int = 2,
    canaries: int = 200_000,
    block: int = 512,
    sites: int = 4,
    beside: Callable[[Floats], Floats] | None = None,
) -> Scores:
    """Audit noised gradient sums, with noise in shares; O(canaries · block · rounds).

    Parameters
    ----------
    budget, delta : float
        What the releases are calibrated to, together.
    rounds : int
        Releases that every canary takes part in.
    canaries : int
        How many; rounded up to whole blocks.
    block : int
        Coordinates of one release, and canaries in it.
    sites : int
        Sites whose shares of noise make up the sum; the canaries are the first one's.
    beside : callable, optional
        What else leaves about the canaries' rows, (n, block) to (block,): for example exact column
        sums for scaling.  It is added to the score with a weight that no noise drowns.

    Returns
    -------
    Scores
    """
    multiplier = noise_multiplier(budget, delta, rounds)
    release = Release(
        "gradient", multiplier, CLIP, CLIP, ROW_EXPONENT + FACTOR_EXPONENT, "add-or-remove"
    )
    share = Shares(release.deviation, sites).share / release.deviation
    privacy = privacy_of(budget, delta)
    rows = integer_rows(_ROW * np.eye(block), _ROW)
    entropy = Entropy()
    inside: list[Floats] = []
    outside: list[Floats] = []
    for _ in range(-(-canaries // block)):
        coin = entropy.words(block, "u1") & 1 == 1
        score = np.zeros(block)
        for round in range(rounds):
            sign = 1.0 if round % 2 == 0 else -1.0
            label = 0.0 if round % 2 == 0 else 1.0  # slope p - y of a model of zeros: ± 1/2
            records = cast(Records, Rows(rows[coin], np.full(int(coin.sum()), label)))
            total = np.zeros(block, np.int64)
            for site in range(sites):
                values = np.zeros(block, np.int64)
                if site == 0:
                    values = gradient_sum("binary", np.zeros((1, block)), records, CLIP)
                made = privatise({"update": ClippedSum(values, release, share)}, privacy)
                total += made.parts["update"].arrays["sum"]
            score += sign * total
        if beside is not None:
            score += beside(_ROW * np.eye(block)[coin]) * release.deviation * 1e3
        inside.append(score[coin])
        outside.append(score[~coin])
    claimed, _ = epsilon([release.event] * rounds, delta)
    return Scores(np.concatenate(inside), np.concatenate(outside), claimed, delta)


def privacy_of(budget: float, delta: float) -> Privacy:
    """Plan of noised sums over clipped records, with noise in shares."""
    return parse_params(
        {
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "noise": "distributed",
                "simulate_sums": True,
                "epsilon": budget,
                "delta": delta,
                "rows": 1000,
                "evaluation": "none",
            },
            "data": {"scaling": "bounds"},
            "aggregation": {"weighting": "uniform"},
            "model": {"linear": {"strategy": "private"}},
        }
    ).privacy


class Rows:
    """Integer rows and labels in the place of a site's records (``Records``)."""

    def __init__(self, rows: Floats, labels: Floats) -> None:
        self._rows, self._labels = rows, labels

    def chunks(self) -> Iterator[tuple[Floats, Floats]]:
        """All of them, at once."""
        yield self._rows, self._labels
