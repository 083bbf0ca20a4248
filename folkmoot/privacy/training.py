"""The schedule of a privately trained linear model: which sums are released, and under what noise.

Clipping ``record`` bounds what every record adds to a sum; the whole run is one composition of
Gaussian releases with a budget of its own (Dong, Roth & Su 2022, corollary 3.3), of which each
release gets a share.  Sites and coordinator compute the same schedule from params and contract:
nothing in it is read from rows, and :attr:`Schedule.why` says why the method was chosen.

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
from dataclasses import dataclass
from typing import Literal

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.features import feature_space
from folkmoot.generalisation import is_categorical
from folkmoot.params import Params
from folkmoot.privacy.accountant import gaussian_epsilon
from folkmoot.privacy.calibrate import gaussian_multiplier
from folkmoot.privacy.events import DiscreteGaussian, Event, Unit
from folkmoot.privacy.persons import check_split, person_column
from folkmoot.privacy.shares import Shares
from folkmoot.wire import Artefact

__all__ = [
    "Release",
    "Schedule",
    "charges",
    "clip_of",
    "moved_rows",
    "noise_of_sum",
    "row_norm",
    "schedule",
    "share_of",
]

Kind = Literal["histogram", "gram", "gradient", "labels", "leaves", "evaluation", "statistics"]
Method = Literal["newton", "gradient", "moments", "leaves"]

#: Shares of the budget (of 1/sigma²): the rest goes to the gradients in equal parts.
HISTOGRAM_SHARE, GRAM_SHARE, EVALUATION_SHARE = 0.05, 0.25, 0.05
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
#: Steps are 2^-exponent: of a design row, of a gradient's factor, of a count.
ROW_EXPONENT, FACTOR_EXPONENT, COUNT_EXPONENT = 12, 14, 20


#: Schedules that this process has made: every step asks for its own.
_made: dict[tuple[str, ...], Schedule] = {}
_KEEP = 64


@dataclass(frozen=True)
class Release:
    """One noised sum that every site contributes to.

    Parameters
    ----------
    kind : str
        What is summed.
    noise_multiplier : float
        Standard deviation of the sum's planned noise over ``sensitivity``.
    norm : float
        Largest L2 norm of one record's vector.
    sensitivity : float
        Largest change of the sum between neighbouring datasets: the norm, times what relation and
        preparation make of one record.
    exponent : int
        The sum is made of whole steps of ``2^-exponent``.
    relation : str
        As ``privacy.relation``.
    clip : float
        Of a gradient: the clip norm to begin with.
    counted : float
        Of a gradient under ``privacy.adaptive_clip``: the norm is 1, a gradient is divided by the
        clip of its round, and this share of the norm counts the gradients that were not clipped.
    unit : str
        As ``privacy.unit``.
    """

    kind: Kind
    noise_multiplier: float
    norm: float
    sensitivity: float
    exponent: int
    relation: Literal["add-or-remove", "replace-one"]
    clip: float = 0.0
    counted: float = 0.0
    unit: Unit = "record"

    @property
    def deviation(self) -> float:
        """Standard deviation of the planned noise, in steps."""
        return self.noise_multiplier * self.sensitivity * 2.0**self.exponent

    @property
    def event(self) -> Event:
        """What the release costs every site that takes part in it."""
        return DiscreteGaussian(
            self.noise_multiplier,
            self.sensitivity,
            self.unit,
            self.relation,
            steps=self.deviation,
        )


@dataclass(frozen=True)
class Schedule:
    """All releases of a run, by round.

    Parameters
    ----------
    method : str
        How the model is trained.
    why : str
        One sentence for people.
    releases : tuple of Release
        One per round, from round 1.
    evaluation : Release or None
        Held-out counts at the end.
    epsilon : float
        What all releases together cost.
    share : float
        Standard deviation of the noise a site adds, over the planned one.
    total : float
        Standard deviation of the noise of the sum over all sites, over the planned one.
    width : int
        Columns of the design, the constant included (at most, with bins).
    """

    method: Method
    why: str
    releases: tuple[Release, ...]
    evaluation: Release | None
    epsilon: float
    share: float
    total: float
    width: int

    @property
    def rounds(self) -> int:
        """Rounds that release anything."""
        return len(self.releases)

    def of(self, round: int) -> Release:
        """The release of a round.

        Raises
        ------
        PrivacyError
            ``privacy.mechanism`` for a round that the schedule does not have.
        """
        if not 1 <= round <= self.rounds:
            raise PrivacyError(
                "privacy.mechanism",
                f"The schedule has no release in round {round}.",
                "Check that coordinator and site run the same version of folkmoot.",
            )
        return self.releases[round - 1]


def schedule(params: Params, contract: Contract) -> Schedule:
    """Plan the releases of a run with clipping ``record``; O(features), kept.

    Parameters
    ----------
    params : Params
        ``privacy.clipping`` must be ``record``.
    contract : Contract
        Its columns bound what one record can add.

    Returns
    -------
    Schedule

    Raises
    ------
    PrivacyError
        ``privacy.small-data`` where the noise would drown the answer; ``privacy.mechanism`` where
        method, task and budget do not fit each other, and for a contract that does not tell people
        apart under unit ``person``.
    ConfigError
        ``config.invalid`` for a split that lets one row move others.
    """
    check_split(params, contract)
    person_column(params, contract)
    settings = (params.privacy, params.anonymisation, params.model.chosen, params.federation)
    key = (contract.content_digest, *(section.model_dump_json() for section in settings))
    if key not in _made:
        if len(_made) >= _KEEP:
            _made.clear()
        _made[key] = _schedule(params, contract)
    return _made[key]


def charges(params: Params, contract: Contract, round: int) -> dict[str, Event]:
    """What the update of a round costs, by part, under clipping ``record``; round 0: evaluation."""
    planned = schedule(params, contract)
    if round == 0:
        return {} if planned.evaluation is None else {"evaluation": planned.evaluation.event}
    return {"update": planned.of(round).event}


def row_norm(method: Method, params: Params, contract: Contract) -> float:
    """L2 norm that design rows are clipped to, by method; from public figures."""
    return _Noise(_linear(params), contract).row(method)


def moved_rows(params: Params) -> int:
    """Rows of a sum that one protected unit moves at most.

    Suppression of small classes lets one record move several prepared rows; a person has several.
    """
    moved = max(1, params.anonymisation.k)
    if params.privacy.unit == "person":
        moved *= params.privacy.rows_per_person
    return moved * (2 if params.privacy.relation == "replace-one" else 1)


def noise_of_sum(params: Params) -> float:
    """Standard deviation of the noise of the sum over all sites, over the planned one."""
    if params.privacy.noise == "coordinator":
        return 1.0
    planned = 1 if params.privacy.noise == "site" else _shares(params, 2.0**20).honest
    return math.sqrt(len(params.federation.members) / planned)


def clip_of(model: Artefact, release: Release) -> float:
    """Clip norm that a model asks for where it adapts; the planned one before the first gradient.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model with no such number.
    """
    found = model.arrays.get("state.clip")
    if found is None:
        return release.clip
    if found.shape != () or found.dtype.kind != "f" or not 0 < float(found) < math.inf:
        raise ProtocolError(
            "protocol.mismatch",
            "The global model has a clip norm that is not one positive number.",
            "Check that coordinator and site run the same version of folkmoot.",
        )
    return float(found)


def _linear(params: Params) -> Params:
    """Params of the linear model that is trained, where trees are made of one."""
    if params.model.kind == "linear":
        return params
    from folkmoot.trees.additive import as_linear

    return as_linear(params)


def _schedule(params: Params, contract: Contract) -> Schedule:
    if params.model.kind == "trees" and params.model.trees.strategy == "private_trees":
        from folkmoot.trees.private import tree_schedule

        return tree_schedule(params, contract)
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


def _shares(params: Params, sigma: float) -> Shares:
    """The sum's noise in shares of all members (:mod:`folkmoot.privacy.shares`).

    Fewer than a quorum without ``dropouts`` never open a sum, so the others may all be missing.
    """
    sites, privacy = len(params.federation.members), params.privacy
    missing = sites - params.federation.required + privacy.dropouts
    return Shares(sigma, sites, missing, privacy.colluders)


def share_of(params: Params, releases: list[Release]) -> float:
    """What each site adds, over the planned noise; refuses shares whose sum has another law."""
    if params.privacy.noise != "distributed":
        return 1.0 if params.privacy.noise == "site" else 0.0
    return max(_shares(params, one.deviation).share / one.deviation for one in releases)


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
