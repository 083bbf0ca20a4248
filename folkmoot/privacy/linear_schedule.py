"""The schedule of a linear model: its method, the norms, and whether the noise drowns the answer.

============  =====================================================  ==========================
method        releases                                               for
============  =====================================================  ==========================
``newton``    noised histograms (scaling, winsorising, bins), one    enough rows for d² numbers
              noised Gram matrix as fixed Hessian, noised gradients
``gradient``  noised gradients of clipped records                    few rows
``moments``   noised second moments once: AdaSSP (Wang 2018)         regression
============  =====================================================  ==========================

Where the noise would drown the answer the plan is refused before anything is spent, with the
number of rows or the epsilon that would do.
"""

from __future__ import annotations

import math

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.features import feature_space
from folkmoot.generalisation import is_categorical
from folkmoot.params import Params
from folkmoot.privacy.accountant import gaussian_epsilon
from folkmoot.privacy.calibrate import gaussian_multiplier
from folkmoot.privacy.planned import (
    COUNT_EXPONENT,
    EVALUATION_SHARE,
    FACTOR_EXPONENT,
    ROW_EXPONENT,
    Kind,
    Method,
    Release,
    Schedule,
    moved_rows,
    noise_of_sum,
    share_of,
)

__all__ = ["COUNTED", "linear_schedule", "row_norm"]

#: Shares of the training's budget (of 1/sigma²): the rest goes to the gradients in equal parts.
HISTOGRAM_SHARE, GRAM_SHARE = 0.05, 0.25
#: Norm of a design row and clip norm of its gradient over sqrt(columns + 1); chosen on adult.test.
ROW_NORM = {"linear": 0.55, "additive": 0.80}
GRADIENT_CLIP = {"linear": 0.35, "additive": 0.43}
#: Norm of a row of ``[x, 1, y]`` over sqrt(d + 2): shortening a row weakens it, and biases nothing.
MOMENTS_NORM = 0.3
#: Clip norm of one record's gradient, and rounds, with the method ``gradient``.
SMALL_CLIP, SMALL_ROUNDS = 0.5, 5
#: Share of the norm that counts unclipped gradients, where the clip adapts.
COUNTED = 0.1
#: Largest noise over signal: a bin of the histogram and the Gram matrix by basis (bins bear more than
#: numbers as they are: adult at epsilon 0.1), a gradient, the moments.
MOST_BIN = {"linear": 0.02, "additive": 0.03}
MOST_GRAM = {"linear": 1.5, "additive": 4.5}
MOST_GRADIENT, MOST_MOMENTS = 1.0, 0.3


def row_norm(method: Method, params: Params, contract: Contract) -> float:
    """L2 norm that design rows are clipped to, by method; from public figures."""
    return _Noise(_linear(params), contract).row(method)


def _linear(params: Params) -> Params:
    """Params of the linear model that is trained, where trees are made of one."""
    if params.model.kind == "linear":
        return params
    from folkmoot.trees.additive import as_linear

    return as_linear(params)


def linear_schedule(params: Params, contract: Contract) -> Schedule:
    """Schedule of a linear model, or of the one that trees are made of; raises as ``schedule``."""
    params = _linear(params)
    privacy = params.privacy
    if privacy.clipping != "record" or privacy.epsilon is None or privacy.rows is None:
        raise PrivacyError(
            "privacy.mechanism",
            "A schedule needs privacy.clipping record, epsilon and rows.",
            "Set them, or use another strategy.",
        )
    noise = _Noise(params, contract)
    sigma = gaussian_multiplier(privacy.epsilon, privacy.delta * (1 - 1e-8)) * (1 + 1e-9)
    if privacy.evaluates == "noised":
        training = sigma / math.sqrt(1 - EVALUATION_SHARE)
        evaluation = noise.release("evaluation", sigma / math.sqrt(EVALUATION_SHARE))
    else:
        training, evaluation = sigma, None
    method, why = _method(noise, training)
    releases = noise.releases(method, training)
    return Schedule(
        method,
        why,
        releases,
        evaluation,
        gaussian_epsilon(sigma, privacy.delta),
        share_of(params, [*releases, *([] if evaluation is None else [evaluation])]),
        noise.total,
        noise.width(method),
    )


class _Noise:
    """How much noise a plan has, over its signal, by method; public figures alone."""

    def __init__(self, params: Params, contract: Contract) -> None:
        privacy, linear = params.privacy, params.model.linear
        self.privacy, self.linear, self.contract = privacy, linear, contract
        space = feature_space(contract, params.anonymisation, "linear")
        numbers = sum(not is_categorical(column) for column in contract.inputs)
        self.columns = len(contract.inputs)
        self.features = len(space)
        self.binned = self.features + numbers * (linear.bins - 1)
        self.classes = len(contract.classes) if contract.task == "multiclass" else 1
        self.rows = float(privacy.rows or 1)
        self.total = noise_of_sum(params)
        self.moved = moved_rows(params)

    def width(self, method: Method) -> int:
        """Columns of the design with the constant."""
        if method == "newton" and self.linear.basis == "additive":
            return self.binned + 1
        return self.features + 1

    def row(self, method: Method) -> float:
        """L2 norm of a design row."""
        if method == "newton":
            return ROW_NORM[self.linear.basis] * math.sqrt(self.columns + 1)
        if method == "gradient":
            return math.sqrt(self.features + 1)
        return MOMENTS_NORM * math.sqrt(self.features + 2)

    def release(self, kind: Kind, multiplier: float, method: Method = "newton") -> Release:
        root = math.sqrt(self.columns + 1)
        row = self.row(method)
        clip = GRADIENT_CLIP[self.linear.basis] * root if method == "newton" else SMALL_CLIP
        norm, exponent = {
            "histogram": (root, COUNT_EXPONENT),
            "gram": (row * row, 2 * ROW_EXPONENT),
            "gradient": (clip, ROW_EXPONENT + FACTOR_EXPONENT),
            "evaluation": (1.0, COUNT_EXPONENT),
        }[kind]
        start, counted = (clip, 0.0) if kind == "gradient" else (0.0, 0.0)
        if start and self.privacy.adaptive_clip is not None:
            norm, counted = 1.0, COUNTED
        relation = self.privacy.relation
        moved = norm * self.moved
        unit = self.privacy.unit
        return Release(kind, multiplier, norm, moved, exponent, relation, start, counted, unit)

    def releases(self, method: Method, sigma: float) -> tuple[Release, ...]:
        most = self.linear.rounds
        if method == "moments":
            return (self.release("gram", sigma, method),)
        if method == "gradient":
            rounds = min(most, SMALL_ROUNDS)
            one = self.release("gradient", sigma * math.sqrt(rounds), method)
            return (one,) * rounds
        rest = (1 - HISTOGRAM_SHARE - GRAM_SHARE) / (most - 2)
        return (
            self.release("histogram", sigma / math.sqrt(HISTOGRAM_SHARE)),
            self.release("gram", sigma / math.sqrt(GRAM_SHARE)),
            *(self.release("gradient", sigma / math.sqrt(rest)) for _ in range(most - 2)),
        )

    def ratio(self, method: Method, sigma: float, rows: float) -> float:
        """Noise over signal, over the most that the method bears: above 1 it drowns."""
        sigma *= self.total * self.moved
        width = self.width(method)
        if method == "moments":
            return sigma * math.pow(width + 1, 1.5) / rows / MOST_MOMENTS
        if method == "gradient":
            rounds = min(self.linear.rounds, SMALL_ROUNDS)
            size = math.sqrt(rounds * width * self.classes)
            return sigma * size / rows / MOST_GRADIENT
        basis = self.linear.basis
        bins = sigma * math.sqrt((self.columns + 1) / HISTOGRAM_SHARE) / rows / MOST_BIN[basis]
        gram = sigma / math.sqrt(GRAM_SHARE) * math.pow(width, 1.5) / rows / MOST_GRAM[basis]
        return max(bins, gram)


def _method(noise: _Noise, sigma: float) -> tuple[Method, str]:
    """The method of the plan and why; refuses what would drown."""
    wanted, task = noise.privacy.method, noise.contract.task
    if (task == "regression") != (wanted == "moments") and wanted != "auto":
        raise PrivacyError(
            "privacy.mechanism",
            f"privacy.method {wanted} does not train a model for task {task}.",
            "Set privacy.method to auto: regression uses moments, classes use newton or gradient.",
        )
    additive = noise.linear.basis == "additive"
    if additive and (task == "regression" or wanted == "gradient"):
        raise PrivacyError(
            "privacy.mechanism",
            "Basis additive needs the noised histograms of method newton, which trains classes.",
            "Set model.linear.basis to linear, or privacy.method to auto.",
        )
    facts = (
        f"{noise.rows:.0f} rows, {noise.features} features, epsilon {noise.privacy.epsilon:g}, "
        f"noise {noise.privacy.noise}"
    )
    if task == "regression":
        _bearable(noise, "moments", sigma)
        return "moments", f"{facts}: least squares needs its second moments once"
    if wanted == "newton" or additive:
        if noise.linear.rounds < 3:
            raise PrivacyError(
                "privacy.mechanism",
                "Method newton needs a round of histograms, one of the Gram matrix and gradients.",
                "Raise model.linear.rounds to 3 or more.",
            )
        _bearable(noise, "newton", sigma)
        return "newton", f"{facts}: method newton was asked for"
    level = noise.ratio("newton", sigma, noise.rows)
    if wanted == "auto" and noise.linear.rounds >= 4 and level <= 1:
        return "newton", (
            f"{facts}: the noise of histograms and Gram matrix is {level:.2g} of what they bear, so "
            "a fixed noised Hessian saves rounds"
        )
    _bearable(noise, "gradient", sigma)
    reason = (
        "asked for" if wanted == "gradient" else "the Gram matrix would drown or find no rounds"
    )
    return "gradient", f"{facts}: {reason}, so few gradients of clipped records"


def _bearable(noise: _Noise, method: Method, sigma: float) -> None:
    level = noise.ratio(method, sigma, noise.rows)
    if level <= 1:
        return
    rows = math.ceil(noise.rows * level)
    epsilon = gaussian_epsilon(sigma / level, noise.privacy.delta)
    raise PrivacyError(
        "privacy.small-data",
        f"Under epsilon {noise.privacy.epsilon:g} and noise {noise.privacy.noise} the noise of "
        f"method {method} would drown what {noise.rows:.0f} rows with {noise.features} features "
        "tell; nothing was spent.",
        f"It takes about {rows} rows, or an epsilon of {epsilon:.2g}, or fewer columns.",
    )
