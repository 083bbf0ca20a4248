"""Exact integer noise from the operating system's entropy, and private choices.

===================  ============================================================================
module               holds
===================  ============================================================================
``entropy``          AES-256-CTR keystreams, keyed anew from ``os.urandom`` for every call
``tables``           inverse-CDF tables in integer arithmetic, looked up at vectorised speed
``discrete_gaussian``  the discrete Gaussian, of any variance
``discrete_laplace``   the two-sided geometric distribution
``skellam``          the difference of two Poisson numbers
``grid``             real values on a grid, so that integer noise is all the noise there is
``choices``          exponential mechanism, permute-and-flip
===================  ============================================================================

No number is ever made by floating-point arithmetic: the low bits of a float tell what lies below
the noise (Mironov 2012), so a naive float Laplace or Gaussian does not have the epsilon it claims.
Integers have no such bits.  Every sampler's law is within :data:`DISTANCE` of the law it is named
after, in total variation per number; the accountant charges that to delta.
"""

from __future__ import annotations

from folkmoot.privacy.noise.discrete_gaussian import discrete_gaussian, largest_draw
from folkmoot.privacy.noise.discrete_laplace import discrete_laplace
from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.skellam import skellam
from folkmoot.privacy.noise.tables import DISTANCE

__all__ = [
    "DISTANCE",
    "Entropy",
    "discrete_gaussian",
    "discrete_laplace",
    "largest_draw",
    "skellam",
]
