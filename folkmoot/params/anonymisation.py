"""What happens to identifiers and quasi-identifiers: section ``anonymisation``.

Names of the privacy models are those of their papers; ``site_tasks.anonymise.models`` cites them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import NonNegative, Positive
from folkmoot.sections import Section

__all__ = ["Anonymisation", "DeltaPresence", "LDiversity", "TCloseness"]

Share = Annotated[float, Field(ge=0, le=1)]


class LDiversity(Section):
    """l-diversity of the sensitive columns in every equivalence class."""

    kind: Literal["distinct", "entropy", "recursive"] = "distinct"
    """`distinct`: l different values; `entropy`: at least log l; `recursive`: (c, l), the most frequent value below c times the sum of all but the l - 1 most frequent."""
    l: Annotated[float, Field(ge=1)]  # noqa: E741 - the paper's name
    """l; a whole number unless `kind` is `entropy`."""
    c: Positive | None = None
    """c of `recursive`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "recursive") != (self.c is not None):
            raise ValueError("c belongs to recursive l-diversity, which needs it")
        if self.kind != "entropy" and not float(self.l).is_integer():
            raise ValueError("l must be a whole number unless kind is entropy")
        return self


class TCloseness(Section):
    """Distance between the sensitive values of a class and those of all rows."""

    t: Share
    """Largest earth mover's distance."""
    distance: Literal["equal", "ordered", "hierarchical"] = "equal"
    """Ground distance: `equal` between any two values, `ordered` by rank, `hierarchical` by the contract's hierarchy."""


class DeltaPresence(Section):
    """Bounds on the probability that a person of the population table is in the dataset."""

    low: Share = 0.0
    """Least probability."""
    high: Share
    """Largest probability."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not lie above high")
        return self


class Anonymisation(Section):
    """What happens to identifiers and quasi-identifiers before training."""

    identifiers: Literal["drop", "pseudonymise"] = "drop"
    """Direct identifiers are dropped, or replaced by HMAC-SHA-256 pseudonyms that stay at the site."""
    pseudonym_epoch: Annotated[int, Field(ge=0)] = 0
    """Enters the key of pseudonyms and date shifts: raise it to rotate both; fixed within a run series."""
    recoding: Literal["public", "agreed", "local"] = "public"
    """One feature space for all sites: `public` takes `levels`; `agreed` lets the sites settle on levels that each can satisfy; `local` recodes each site's classes by themselves and encodes them into one fixed space."""
    k: Annotated[int, Field(ge=1)] = 1
    """Smallest equivalence class; rows of smaller classes are suppressed. 1 turns it off."""
    levels: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Generalisation level per quasi-identifier, into the contract's hierarchy; 0 keeps the value. With `agreed` the lowest levels that may be settled on."""
    suppression_limit: Share = 0.05
    """Largest share of a site's rows that may be suppressed; with `agreed` beyond what each site would suppress at its own optimum."""
    pull_limit: Share = 0.02
    """`agreed`: most information (share of all cells, GCP) that one site's limit of suppression may cost each other site on average; beyond that the site is left out as far as the quorum allows, or the run stops."""
    settled: dict[str, Annotated[int, Field(ge=0)]] | None = None
    """`agreed`: levels that the sites settled on. Filled in by the run, and kept with its model; leave it out."""
    method: Literal["mondrian", "relaxed", "microaggregation"] = "mondrian"
    """Engine of `local`: strict Mondrian with cuts chosen by what they save, `relaxed` Mondrian, which may part equal rows, or micro-aggregation (MDAV) for ordered columns."""
    sensitive: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Column or columns that the models below protect, where not all of role `sensitive`; each model has to hold for each column."""
    l_diversity: LDiversity | None = None
    """l-diversity."""
    t_closeness: TCloseness | None = None
    """t-closeness."""
    alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    """(alpha, k)-anonymity: largest share of one sensitive value in a class."""
    beta: Positive | None = None
    """Enhanced beta-likeness: largest relative gain of a sensitive value's share in a class."""
    delta_disclosure: Positive | None = None
    """delta-disclosure privacy: largest absolute log ratio between a sensitive value's share in a class and in all rows."""
    delta_presence: DeltaPresence | None = None
    """delta-presence, against the population table that each site names in its site.toml."""
    k_map: Annotated[int, Field(ge=2)] | None = None
    """k-map: fewest people of the population table behind every class."""
    time_limit_seconds: NonNegative = 60.0
    """When the search of the lattice of levels ends with the best found and its bound."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.recoding == "local" and self.levels:
            raise ValueError(
                "levels have no meaning with recoding local: remove them, or use public"
            )
        if self.recoding == "local" and self.k < 2:
            raise ValueError("recoding local needs k of at least 2")
        if self.recoding == "agreed" and self.k < 2:
            raise ValueError("recoding agreed needs k of at least 2: there is nothing to settle")
        if isinstance(self.sensitive, list) and len({*self.sensitive}) < len(self.sensitive):
            raise ValueError("sensitive names a column twice")
        if self.settled is not None and self.recoding != "agreed":
            raise ValueError("settled is filled in by runs with recoding agreed: leave it out")
        if self.k_map is not None and self.k_map < self.k:
            raise ValueError(
                "k_map below k contradicts it: every class that holds k rows stands for k people"
            )
        wanted = self.l_diversity
        if wanted is not None and 1 < self.k < wanted.l:
            raise ValueError(
                "l_diversity asks for more values in a class than k asks for rows: raise k to at "
                "least l"
            )
        return self

    @property
    def chosen(self) -> dict[str, int]:
        """Levels that are used: those settled on, else the plan's."""
        return self.levels if self.settled is None else self.settled

    @property
    def protects(self) -> bool:
        """Whether a model looks at sensitive values."""
        models = (self.l_diversity, self.t_closeness, self.alpha, self.beta, self.delta_disclosure)
        return any(model is not None for model in models)

    @property
    def active(self) -> bool:
        """Whether any privacy model is asked for."""
        return self.k > 1 or self.extra

    @property
    def extra(self) -> bool:
        """Whether a model besides k-anonymity is asked for."""
        return self.protects or self.delta_presence is not None or self.k_map is not None
