"""Integer noise: speed on one core, exactness, and what a whole federation's sum holds of it."""

from __future__ import annotations

import math
import time

import numpy as np

from benchmarks.report import row
from folkmoot.params import parse_params
from folkmoot.privacy.noise import discrete_gaussian, discrete_laplace, skellam
from folkmoot.privacy.training import schedule
from pipelines.hosts.walk import contract_for
from site_tasks.privatise import ClippedSum, privatise

RUNS, SITES, DROPPED, NUMBERS = 10_000, 4, 1, 31
PLAN = {
    "data": {"recipe": "breast_cancer", "scaling": "bounds", "holdout": {"by": "content"}},
    "federation": {"sites": [f"site-{i}" for i in range(SITES)]},
    "aggregation": {"weighting": "uniform"},
    "model": {"linear": {"strategy": "private"}},
    "privacy": {
        "mechanism": "gaussian",
        "clipping": "record",
        "noise": "distributed",
        "simulate_sums": True,
        "dropouts": DROPPED,
        "epsilon": 3.0,
        "rows": 426,
    },
}


def main() -> None:
    speed()
    exactness()
    federation()


def speed() -> None:
    """Numbers per second; the clock is the processor's, so that neighbours do not count."""
    n = 4_000_000
    for sigma in (4.0, 500.0, 2.0**16, 2.0**22, 2.0**30):
        best, median = rate(lambda s=sigma: discrete_gaussian(s, n), n)
        row(
            f"discrete Gaussian, sigma {sigma:.4g} steps, one core",
            f"{best:.1e}/s (median {median:.1e}/s)",
            "≥ 2e7/s",
            met=best >= 2e7,
        )
    for name, draw in (
        ("discrete Laplace, scale 2^16 steps", lambda: discrete_laplace(2.0**16, n)),
        ("Skellam, variance 2^17 steps", lambda: skellam(2.0**17, n)),
    ):
        best, median = rate(draw, n)
        row(f"{name}, one core", f"{best:.1e}/s (median {median:.1e}/s)", "", met=None)
    from diffprivlib.mechanisms import GaussianDiscrete

    mechanism = GaussianDiscrete(epsilon=1.0, delta=1e-5)
    best, median = rate(lambda: [mechanism.randomise(0) for _ in range(20_000)], 20_000)
    row("diffprivlib's discrete Gaussian, for comparison", f"{best:.1e}/s", "", met=None)


def rate(draw: object, n: int, times: int = 7) -> tuple[float, float]:
    assert callable(draw)
    draw()
    seconds = []
    for _ in range(times):
        began = time.process_time()
        draw()
        seconds.append(time.process_time() - began)
    return n / min(seconds), n / sorted(seconds)[times // 2]


def exactness(n: int = 100_000_000) -> None:
    """Chi-square of 1e8 fresh numbers against the law, from one table and from a convolution."""
    from scipy import stats

    for sigma in (50.0, 700.0):
        most = int(12 * sigma)
        x = np.arange(-most, most + 1)
        law = np.exp(-(x.astype(np.float64) ** 2) / (2 * sigma**2))
        law /= law.sum()
        seen = np.zeros(len(x), np.int64)
        for _ in range(n // 4_000_000):
            seen += np.bincount(discrete_gaussian(sigma, 4_000_000) + most, minlength=len(x))
        kept = law * n >= 10
        tail = ~kept
        due = np.append(law[kept], law[tail].sum()) * n
        p = stats.chisquare(np.append(seen[kept], seen[tail].sum()), due).pvalue
        row(
            f"chi-square of 1e8 discrete Gaussian numbers, sigma {sigma:g}, {kept.sum()} cells",
            f"p = {p:.3f}",
            "p > 0.001",
            met=bool(p > 0.001),
        )


def federation() -> None:
    """All-zero inputs through the sites' own door, summed and decoded as the coordinator does."""
    from scipy import stats

    params = parse_params(PLAN)
    planned = schedule(params, contract_for(params))
    release = planned.releases[-1]
    zeros = np.zeros(NUMBERS, np.int64)
    for survivors in (SITES, SITES - DROPPED):
        claimed = release.noise_multiplier * release.sensitivity
        claimed *= planned.share * math.sqrt(survivors)
        found = np.empty((RUNS, NUMBERS))
        for run in range(RUNS):
            total = zeros
            for _ in range(survivors):
                part = ClippedSum(zeros, release, planned.share)
                made = privatise({"update": part}, params.privacy)
                total = total + made.parts["update"].arrays["sum"]
            found[run] = total * 2.0**-release.exponent
        ratio = float(found.std() / claimed)
        p = stats.kstest(found.ravel() / claimed, "norm").pvalue
        row(
            f"noise of {survivors} of {SITES} sites over {RUNS:,} runs: deviation over the claim",
            f"{ratio:.4f}",
            "within 1 %",
            met=abs(ratio - 1) < 0.01,
        )
        row(
            f"noise of {survivors} of {SITES} sites over {RUNS:,} runs: Kolmogorov-Smirnov",
            f"p = {p:.3f}",
            "p > 0.001",
            met=bool(p > 0.001),
        )
    # What the accountant was told is what is there when one site's share is missing.
    kept = planned.share * math.sqrt(SITES - DROPPED)
    row(
        f"planned noise that {SITES - DROPPED} of {SITES} sites make up",
        f"{kept:.6f}",
        "≥ 1",
        met=kept >= 1 - 1e-9,
    )


if __name__ == "__main__":
    main()
