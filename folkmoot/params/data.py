"""Where the rows come from and how they become numbers: section ``data``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import Positive
from folkmoot.sections import Section

__all__ = ["Data", "Holdout", "Partition"]


class Partition(Section):
    """How a recipe's rows are dealt to the sites."""

    kind: Literal["natural", "iid", "dirichlet", "quantity", "feature_shift"] = "iid"
    """`natural`: by a column; `dirichlet`: label skew; `quantity`: uneven sizes; `feature_shift`: sorted by a column with overlap."""
    column: str | None = None
    """Column for `natural` (one site per value) and `feature_shift`."""
    alpha: Positive = 0.5
    """Concentration of the Dirichlet distribution for `dirichlet` and `quantity`; smaller is more uneven."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the partition."""


class Holdout(Section):
    """Rows a site keeps back for evaluation."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of rows held out where the contract has no `split` column."""
    by: Literal["position", "content"] = "position"
    """Whether a row is held out by its place in the dataset or by a hash of its own content: adding or removing a row then moves no other."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split."""


class Data(Section):
    """Where the rows come from and how they become numbers."""

    recipe: (
        Literal["breast_cancer", "diabetes", "heart", "adult", "synthetic", "csv", "parquet"] | None
    ) = "breast_cancer"
    """Recipe whose rows are dealt to simulated sites (`folkmoot data list`); null: real sites, each with its own rows."""
    path: str | None = None
    """Folder or file of the source, for `heart`, `adult`, `csv` and `parquet`."""
    contract: str | None = None
    """Data contract (YAML); the recipe's own when null. Needed for `csv`, `parquet` and real sites."""
    partition: Partition = Partition()
    """How rows are dealt to sites."""
    holdout: Holdout = Holdout()
    """Rows kept back for evaluation."""
    scaling: Literal["federation", "bounds", "none"] = "federation"
    """`federation`: mean and variance from summed statistics; `bounds`: from the contract's public bounds; `none`."""
    precision: Literal["float64", "float32"] = "float64"
    """Type of the encoded features at the site."""
    rows: Annotated[int, Field(ge=1)] = 2000
    """Rows of the `synthetic` recipe."""
    columns: Annotated[int, Field(ge=1)] = 20
    """Feature columns of the `synthetic` recipe."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the `synthetic` recipe."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if self.recipe in {"csv", "parquet"} and (self.path is None or self.contract is None):
            raise ValueError("recipes csv and parquet need both path and contract")
        if self.recipe is None and self.contract is None:
            raise ValueError("without a recipe (real sites) the key contract is needed")
        if self.partition.kind in {"natural", "feature_shift"} and self.partition.column is None:
            raise ValueError("partitions natural and feature_shift need a column")
        return self
