"""``params.yaml``, typed and frozen.

Every section is a strict pydantic model: unknown keys are refused with the nearest known name,
infinities and NaN are refused, and no error repeats a value.  ``docs/reference/params.md`` is
generated from the descriptions below (``folkmoot params reference``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from folkmoot.privacy.accountant import gaussian_epsilon
from folkmoot.sections import Section, load_yaml, parse
from folkmoot.wire import canonical_json

__all__ = [
    "Aggregation",
    "Anonymisation",
    "Data",
    "Federation",
    "Linear",
    "Model",
    "Params",
    "Partition",
    "Privacy",
    "Schedule",
    "Tracking",
    "Trees",
    "load_params",
    "parse_params",
]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Federation(Section):
    """Who trains together."""

    name: Name = "demo"
    """Name of the federation; also the MLflow experiment."""
    sites: Annotated[list[Name], Field(min_length=1, max_length=1024)] = [
        "site-a",
        "site-b",
        "site-c",
        "site-d",
    ]
    """Names of the member sites. Aggregation always follows the sorted names."""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """Fewest sites whose contributions close a round; all sites when null."""
    deadline_seconds: Annotated[int, Field(ge=1)] = 600
    """Seconds a site has for one task before its round goes on without it."""
    workspace: str = ".folkmoot"
    """Folder for everything that is not versioned with the project: embedded sites, runs, MLflow."""
    exchange: str | None = None
    """Exchange store as an fsspec URL (`file:///…`, `s3://bucket/prefix`); a folder of the workspace when null."""
    exchange_options: dict[str, str | int | bool] = {}
    """Options for the fsspec filesystem, such as `endpoint_url`. Credentials belong in the environment."""

    @model_validator(mode="after")
    def _sites(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("site names must be distinct")
        if self.quorum is not None and self.quorum > len(self.sites):
            raise ValueError("quorum is larger than the number of sites")
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Site names in the order of aggregation."""
        return tuple(sorted(self.sites))

    @property
    def required(self) -> int:
        """Fewest contributions that close a round."""
        return len(self.sites) if self.quorum is None else self.quorum


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


class Anonymisation(Section):
    """What happens to identifiers and quasi-identifiers before training."""

    identifiers: Literal["drop", "pseudonymise"] = "drop"
    """Direct identifiers are dropped, or replaced by HMAC-SHA-256 pseudonyms that stay at the site."""
    k: Annotated[int, Field(ge=1)] = 1
    """Smallest equivalence class; rows of smaller classes are suppressed. 1 turns it off."""
    levels: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Generalisation level per quasi-identifier, into the contract's hierarchy; 0 keeps the value."""
    suppression_limit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of a site's rows that may be suppressed."""


class EarlyStopping(Section):
    """When rounds end before the last."""

    tolerance: NonNegative = 0.0
    """Stop when the relative change of the stopping measure stays below this; 0 runs every round."""
    patience: Annotated[int, Field(ge=1)] = 1
    """Rounds in a row that must stay below the tolerance."""


class Linear(Section):
    """Logistic, linear and ridge regression."""

    strategy: Literal[
        "newton", "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "scaffold", "local_dp"
    ] = "newton"
    """`newton` sums gradients and Hessians and equals pooled training; `local_dp` averages diffprivlib models once."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 8
    """Most rounds."""
    l2: NonNegative = 1.0
    """Penalty `l2/2 · ‖w‖²` beside the summed loss, as scikit-learn's `1/C` and ridge's `alpha`; intercept free."""
    learning_rate: Positive = 0.1
    """Step of local training."""
    local_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over a site's rows per round."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows per local step."""
    proximal: NonNegative = 0.1
    """FedProx's mu."""
    server_learning_rate: Positive | None = None
    """Step of the coordinator; when null 0.1 for FedAdam, FedYogi and FedAdagrad, 1 for SCAFFOLD."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """First-moment decay of FedAdam and FedYogi."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Second-moment decay of FedAdam and FedYogi."""
    tau: Positive = 1e-3
    """Adaptivity of the coordinator's optimisers."""
    early_stopping: EarlyStopping = EarlyStopping(tolerance=1e-8)
    """When rounds end before the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order of rows in local training (not of noise)."""


class Trees(Section):
    """Gradient-boosted trees, with XGBoost's names."""

    strategy: Literal["bagging", "cyclic"] = "bagging"
    """`bagging`: every site grows trees in every round; `cyclic`: one site after the other."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most rounds."""
    trees_per_round: Annotated[int, Field(ge=1)] = 1
    """Boosting steps a site makes per round."""
    leaf_weighting: Literal["rows", "sum"] = "rows"
    """`bagging`: leaves of a site's tree count by its share of rows (the round is one step), or are summed."""
    eta: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Learning rate."""
    max_depth: Annotated[int, Field(ge=1, le=16)] = 6
    """Depth of a tree."""
    min_child_weight: NonNegative = 1.0
    """Least sum of Hessians in a leaf."""
    reg_lambda: NonNegative = 1.0
    """L2 on leaves."""
    reg_alpha: NonNegative = 0.0
    """L1 on leaves."""
    gamma: NonNegative = 0.0
    """Least gain of a split."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of rows per tree."""
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of columns per tree."""
    max_bin: Annotated[int, Field(ge=2, le=65535)] = 256
    """Histogram bins per feature."""
    early_stopping: EarlyStopping = EarlyStopping()
    """When rounds end before the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of row and column sampling (not of noise)."""


class Model(Section):
    """What is trained."""

    kind: Literal["linear", "trees"] = "linear"
    """Which of the two sections below is used."""
    linear: Linear = Linear()
    """Linear models."""
    trees: Trees = Trees()
    """Tree models."""

    @property
    def rounds(self) -> int:
        """Most rounds of the chosen kind."""
        return self.chosen.rounds

    @property
    def chosen(self) -> Linear | Trees:
        """The section that ``kind`` selects."""
        return self.linear if self.kind == "linear" else self.trees


class Privacy(Section):
    """What is done to an update before it leaves a site."""

    mechanism: Literal["none", "clip", "gaussian", "diffprivlib"] = "none"
    """`clip` bounds the update's L2 norm; `gaussian` adds noise as well; `diffprivlib` trains its own estimators at the site."""
    clip_norm: Positive = 1.0
    """Largest L2 norm of a site's update (per-site clipping)."""
    noise_multiplier: NonNegative = 0.0
    """Standard deviation of the noise over the sensitivity; must be positive for `gaussian`."""
    epsilon: Positive | None = None
    """Epsilon of the training with `diffprivlib`; with `gaussian` the budget of a run: rounds end before it would be passed."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta at which epsilon is reported."""
    unit: Literal["record"] = "record"
    """Privacy unit."""
    seeded: bool = False
    """Noise from a seed, for tests and studies: marks every model, receipt and report as NOT PRIVATE."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise where `seeded`."""

    @model_validator(mode="after")
    def _mechanism(self) -> Self:
        if self.mechanism == "gaussian" and self.noise_multiplier <= 0:
            raise ValueError("mechanism gaussian needs a noise_multiplier above 0")
        if self.mechanism == "diffprivlib" and self.epsilon is None:
            raise ValueError("mechanism diffprivlib needs an epsilon")
        if self.mechanism == "gaussian" and self.epsilon is not None:
            one = gaussian_epsilon(self.noise_multiplier, self.delta)
            if one > self.epsilon:
                raise ValueError(
                    f"the first round alone would spend epsilon {one:.4g}, more than the budget of "
                    f"{self.epsilon:g}: raise noise_multiplier or epsilon"
                )
        return self


class Aggregation(Section):
    """How updates become the global model."""

    weighting: Literal["rows", "uniform"] = "rows"
    """Mean of updates weighted by training rows, or every site alike."""
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    """Rounds between evaluations of the global model at the sites; 0 evaluates after the last round only."""


class Tracking(Section):
    """MLflow."""

    enabled: bool = True
    """Whether runs are tracked."""
    uri: str | None = None
    """MLflow tracking URI; a SQLite file of the workspace when null."""
    model_name: str | None = None
    """Registered model; `<federation>-<kind>` when null."""
    register_model: bool = True
    """Whether the final model is registered."""


Cron = Annotated[str, StringConstraints(pattern=r"^\S+( \S+){4}$")]


class Schedule(Section):
    """When Airflow starts a training by itself; times are UTC."""

    cron: Cron | None = "0 3 * * 1"
    """Cron expression of five fields for `federated_linear` and `federated_trees`; never by the clock when null."""
    on_new_data: bool = True
    """Whether a new dataset version at any site starts a training too."""
    refresh_cron: Cron | None = "0 2 * * *"
    """When `refresh_site_data` looks for new dataset versions at the sites; by hand only when null."""


class Params(Section):
    """All of ``params.yaml``."""

    federation: Federation = Federation()
    """Who trains together."""
    data: Data = Data()
    """Where the rows come from."""
    anonymisation: Anonymisation = Anonymisation()
    """What happens to identifiers and quasi-identifiers."""
    model: Model = Model()
    """What is trained."""
    privacy: Privacy = Privacy()
    """What is done to an update before it leaves."""
    aggregation: Aggregation = Aggregation()
    """How updates become the global model."""
    tracking: Tracking = Tracking()
    """MLflow."""
    schedule: Schedule = Schedule()
    """When Airflow starts a training by itself."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dp = self.privacy.mechanism in {"gaussian", "diffprivlib"}
        if dp and self.data.scaling == "federation":
            raise ValueError(
                "privacy.mechanism gaussian and diffprivlib need data.scaling bounds or none: "
                "federation-wide statistics would be an unaccounted release"
            )
        if dp and self.model.kind == "trees":
            raise ValueError(
                "bagging and cyclic trees have no bounded sensitivity: "
                "privacy.mechanism must be none for model.kind trees"
            )
        if self.privacy.mechanism == "clip" and self.model.kind == "trees":
            raise ValueError("privacy.mechanism clip has no meaning for whole trees")
        if dp and self.aggregation.weighting == "rows":
            raise ValueError(
                "privacy.mechanism gaussian and diffprivlib need aggregation.weighting uniform: "
                "a site's exact number of rows would be an unaccounted release"
            )
        whole = self.privacy.mechanism in {"clip", "gaussian"}
        if whole and self.model.kind == "linear" and self.model.linear.strategy == "newton":
            raise ValueError(
                "privacy.mechanism clip and gaussian bound a site's whole update, which has no meaning "
                "for newton's sums of gradients and Hessians: set model.linear.strategy to fedavg"
            )
        local = self.model.kind == "linear" and self.model.linear.strategy == "local_dp"
        if local != (self.privacy.mechanism == "diffprivlib"):
            raise ValueError(
                "model.linear.strategy local_dp and privacy.mechanism diffprivlib go together"
            )
        if local and self.model.linear.rounds != 1:
            raise ValueError(
                "model.linear.strategy local_dp trains once: set model.linear.rounds to 1"
            )
        return self

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all values."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


def load_params(path: str | Path, overrides: Iterable[str] = ()) -> Params:
    """Read ``params.yaml``.

    Parameters
    ----------
    path : str or Path
        The file.
    overrides : iterable of str
        ``section.key=value`` with the value in YAML, applied over the file.

    Returns
    -------
    Params

    Raises
    ------
    ConfigError
        For a missing file, broken YAML, unknown keys (with the nearest known name) and values of
        the wrong type or range; every fault is listed in one error.
    """
    return parse_params(load_yaml(path), overrides, source=str(path))


def parse_params(
    values: Mapping[str, Any], overrides: Iterable[str] = (), *, source: str = "params"
) -> Params:
    """Build :class:`Params` from a mapping and ``key=value`` overrides; raises as `load_params`."""
    return parse(Params, values, overrides, source=source)
