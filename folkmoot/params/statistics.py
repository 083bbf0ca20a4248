"""Which statistics a run computes instead of training a model: section ``statistics``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import Name
from folkmoot.sections import Section

__all__ = ["COMPUTED", "SUMMED", "Question", "Stage", "Statistics"]

Question = Literal[
    "moments",
    "histogram",
    "quantiles",
    "categories",
    "classes",
    "schema",
    "overlap",
    "median",
    "auc",
]
Stage = Literal["overlap", "compute", "sum"]
#: Questions that sums answer, in the order in which their parts stand in a release.
SUMMED: tuple[Question, ...] = (
    "categories",
    "classes",
    "histogram",
    "moments",
    "quantiles",
    "schema",
)
#: Questions that three computing sites answer from shares.
COMPUTED: tuple[Question, ...] = ("auc", "median")


class Statistics(Section):
    """Which statistics a run computes instead of training a model (`folkmoot statistics run`)."""

    active: bool = False
    """Whether a run computes these statistics instead of training; `folkmoot statistics run` sets it."""
    ask: list[Question] = []
    """`moments` (count, mean, variance), `histogram`, `quantiles`, `categories` (which occur, how often), `classes` (class balance), `schema` (do tables agree with the contract), `overlap` (people whom two sites share), `median` and `auc` (three computing sites)."""
    columns: list[Annotated[str, Field(min_length=1)]] | None = None
    """Columns that are asked about, of those that reach training; all of them when null."""
    bins: Annotated[int, Field(ge=2, le=4096)] = 32
    """Bins of a histogram over a column's public bounds, and of each exchange of a quantile."""
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = [0.25, 0.5, 0.75]
    """Which quantiles."""
    exchanges: Annotated[int, Field(ge=1, le=8)] = 3
    """Quantiles without noise: how many times the bin that holds one is divided anew, one masked sum each."""
    minimum_cell: Annotated[int, Field(ge=1)] = 5
    """Fewest rows behind a published figure: smaller cells, and quantiles that point at fewer, are withheld. With noise the noised count is held to it."""
    small_cells: Literal["sum", "site"] = "sum"
    """Where small cells are left out: of the opened sum, which the coordinator sees, or already at each `site`, whose own smaller cells then count as nought."""
    person: str | None = None
    """Overlap: the contract's direct identifier that people are known by; the only one there is when null."""
    normalise: Literal["exact", "text", "digits"] = "text"
    """Overlap: how identifiers are spelt alike: as they are; without case, accents and anything but letters and digits; or by their digits alone."""
    overlap_size: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Overlap: public number of people that every site's set is filled up to with random points, so that no size is told; most people of a site."""
    overlap_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Overlap: epsilon of every site's noise on the size of one overlap, by dummies; null publishes it exactly."""
    compute: dict[
        Name, Annotated[str, Field(pattern=r"^(127\.0\.0\.1|localhost):[0-9]{1,5}$")]
    ] = {}
    """Median and AUC: the three sites that compute, each with the loopback `host:port` at which the other two reach it: on one machine, or through tunnels (ssh, stunnel), as MPyC sends in the clear."""
    resolution: Annotated[int, Field(ge=2, le=1_048_576)] = 4096
    """Median and AUC: bins over a column's public bounds that values are rounded to."""
    score: str | None = None
    """AUC: the numeric column that ranks rows for the positive class; needed for `auc`."""
    compute_seconds: Annotated[int, Field(ge=1)] = 120
    """Median and AUC: how long a computing site waits for the other two."""

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if self.active and not self.ask:
            raise ValueError("ask must name at least one statistic")
        if len(set(self.ask)) != len(self.ask):
            raise ValueError("ask must not name a statistic twice")
        if sorted(set(self.quantiles)) != self.quantiles:
            raise ValueError("quantiles must be distinct and ascending")
        if "quantiles" in self.ask and not self.quantiles:
            raise ValueError("quantiles must name at least one")
        if "quantiles" in self.ask and self.small_cells == "site":
            raise ValueError("small_cells site would shift every rank: ask for quantiles with sum")
        if "auc" in self.ask and self.score is None:
            raise ValueError("ask auc needs score, the column that ranks rows")
        if self.computed and len(self.compute) != 3:
            raise ValueError("median and auc need exactly three sites in compute")
        if len(set(self.compute.values())) != len(self.compute):
            raise ValueError("the sites of compute must have distinct addresses")
        return self

    @property
    def summed(self) -> tuple[Question, ...]:
        """Questions that sums answer."""
        return tuple(one for one in SUMMED if one in self.ask)

    @property
    def computed(self) -> tuple[Question, ...]:
        """Questions that three computing sites answer."""
        return tuple(one for one in COMPUTED if one in self.ask)

    def stages(self, *, noised: bool) -> tuple[Stage, ...]:
        """What each round does, from round 1; noised quantiles are one tree, in one exchange."""
        again = self.exchanges if "quantiles" in self.ask and not noised else 1
        out: list[Stage] = ["overlap"] if "overlap" in self.ask else []
        if self.computed:
            out.append("compute")
        if self.summed:
            out += ["sum" for _ in range(again)]
        return tuple(out)
