"""What is trained: section ``model``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from folkmoot.params.boosting import HistogramOptions, refuse_unfit
from folkmoot.params.device import DeviceOptions, refuse_unfit_device
from folkmoot.params.kinds import NonNegative, Positive
from folkmoot.params.private_trees import PrivateOptions, refuse_unfit_private
from folkmoot.params.tracker import Tracker
from folkmoot.params.xgboost_names import refuse_other_names
from folkmoot.sections import Section

__all__ = ["EarlyStopping", "Linear", "Model", "Trees"]


class EarlyStopping(Section):
    """When rounds end before the last."""

    tolerance: NonNegative = 0.0
    """Stop when the relative change of the stopping measure stays below this; 0 runs every round."""
    patience: Annotated[int, Field(ge=1)] = 1
    """Rounds in a row that must stay below the tolerance."""


class Linear(Section):
    """Logistic, linear and ridge regression."""

    strategy: Literal[
        "newton",
        "fedavg",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "scaffold",
        "local_dp",
        "private",
    ] = "newton"
    """`newton` sums gradients and Hessians and equals pooled training; `private` sums clipped records under noise; `local_dp` averages diffprivlib models once."""
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
    basis: Literal["linear", "additive"] = "linear"
    """`private`: numbers as they are, or as indicators of bins; still one linear model."""
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    """Most bins of a number with basis `additive`."""
    early_stopping: EarlyStopping = EarlyStopping(tolerance=1e-8)
    """When rounds end before the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order of rows in local training (not of noise)."""


class Trees(HistogramOptions, PrivateOptions, DeviceOptions):
    """Gradient-boosted trees, with XGBoost's names."""

    strategy: Literal[
        "bagging",
        "cyclic",
        "summed_histograms",
        "xgboost_federated",
        "private_trees",
        "private_additive",
        "local_forests",
    ] = "bagging"
    """`bagging`: every site grows trees in every round; `cyclic`: one site after the other; `summed_histograms`: one booster, every split from sums over the sites, equal to pooled training; `xgboost_federated`: the same by XGBoost's own communicator, over direct connections; `private_trees`: random splits, leaves from noised sums; `private_additive`: a curve per feature in few rounds of noised sums; `local_forests`: diffprivlib's forests, one per site, that vote."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most rounds; of `summed_histograms` boosting steps, each of up to `max_depth` exchanges."""
    trees_per_round: Annotated[int, Field(ge=1)] = 1
    """Boosting steps a site makes per round; of `xgboost_federated` those of one live session, after which the model is published and a lost run goes on."""
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
    tracker: Tracker = Tracker()
    """`xgboost_federated`: where sites find the tracker, and how long anybody waits."""
    early_stopping: EarlyStopping = EarlyStopping()
    """When rounds end before the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of row and column sampling (not of noise)."""

    @property
    def exchanges(self) -> int:
        """Most times that sites and coordinator exchange anything in training."""
        if self.strategy != "summed_histograms":
            return self.rounds
        sketch = self.sketch_exchanges if self.bin_edges == "sketch" else 0
        return sketch + self.rounds * self.max_depth + self.spare_exchanges

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        return refuse_other_names(values)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        refuse_unfit(self)
        refuse_unfit_private(self)
        refuse_unfit_device(self)
        return self


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
        """Most rounds of the chosen kind: exchanges between sites and coordinator."""
        return self.linear.rounds if self.kind == "linear" else self.trees.exchanges

    @property
    def chosen(self) -> Linear | Trees:
        """The section that ``kind`` selects."""
        return self.linear if self.kind == "linear" else self.trees
