"""All of ``params.yaml``: the sections together, what must agree between them, and reading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from folkmoot.params.aggregation import Aggregation
from folkmoot.params.anonymisation import Anonymisation
from folkmoot.params.approval import Approval
from folkmoot.params.data import Data
from folkmoot.params.federation import Federation
from folkmoot.params.model import Model
from folkmoot.params.privacy import Privacy
from folkmoot.params.private_trees import PRIVATE, SUMMED_PRIVATELY
from folkmoot.params.schedule import Schedule
from folkmoot.params.statistics import Statistics
from folkmoot.params.tracking import Tracking
from folkmoot.sections import Section, load_yaml, parse
from folkmoot.wire import canonical_json

__all__ = ["Params", "load_params", "parse_params"]


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
    approval: Approval = Approval()
    """Where a person decides before a run goes on."""
    statistics: Statistics = Statistics()
    """What `folkmoot statistics run` computes instead of training."""

    @property
    def kind(self) -> str:
        """What a run makes: ``linear``, ``trees`` or ``statistics``."""
        return "statistics" if self.statistics.active else self.model.kind

    @property
    def rounds(self) -> int:
        """Most rounds of a run."""
        if not self.statistics.active:
            return self.model.rounds
        return len(self.statistics.stages(noised=self.privacy.private))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.statistics.active:
            self._asking()
            return self
        dp = self.privacy.mechanism in {"gaussian", "diffprivlib"}
        if dp and self.data.scaling == "federation":
            raise ValueError(
                "privacy.mechanism gaussian and diffprivlib need data.scaling bounds or none: "
                "federation-wide statistics would be an unaccounted release"
            )
        if dp and self.model.kind == "trees" and self.model.trees.strategy not in PRIVATE:
            raise ValueError(
                f"model.trees.strategy {self.model.trees.strategy} grows trees along the rows: one row "
                "more can change every split, so that they have no bounded sensitivity: "
                "privacy.mechanism must be none, or the strategy private_trees, private_additive or "
                "local_forests"
            )
        if self.privacy.mechanism == "clip" and self.model.kind == "trees":
            raise ValueError("privacy.mechanism clip has no meaning for whole trees")
        if dp and self.aggregation.weighting == "rows":
            raise ValueError(
                "privacy.mechanism gaussian and diffprivlib need aggregation.weighting uniform: "
                "a site's exact number of rows would be an unaccounted release"
            )
        if dp and self.anonymisation.recoding != "public":
            raise ValueError(
                "anonymisation.recoding agreed and local let the rows decide on levels or cells, which "
                "no budget pays for: use public under differential privacy"
            )
        if dp and self.anonymisation.extra:
            raise ValueError(
                "privacy models of sensitive values or a population let one row suppress a class of "
                "any size, so that no sensitivity is bounded: use k alone under differential privacy"
            )
        self._private_training()
        whole = self.privacy.mechanism in {"clip", "gaussian"}
        if whole and self.model.kind == "linear" and self.model.linear.strategy == "newton":
            raise ValueError(
                "privacy.mechanism clip and gaussian bound a site's whole update, which has no meaning "
                "for newton's sums of gradients and Hessians: set model.linear.strategy to fedavg"
            )
        local = self.model.chosen.strategy in {"local_dp", "local_forests"}
        if local != (self.privacy.mechanism == "diffprivlib"):
            raise ValueError(
                "model.linear.strategy local_dp (for trees: local_forests) and privacy.mechanism "
                "diffprivlib go together"
            )
        if self.model.chosen.strategy == "local_dp" and self.model.linear.rounds != 1:
            raise ValueError(
                "model.linear.strategy local_dp trains once: set model.linear.rounds to 1"
            )
        return self

    @model_validator(mode="after")
    def _defended(self) -> Self:
        defence, federation = self.aggregation.defence, self.federation
        if defence.mode == "none" or self.statistics.active:
            return self
        averaged = {"fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad"}
        if self.model.kind != "linear" or self.model.linear.strategy not in averaged:
            raise ValueError(
                "aggregation.defence needs updates that are averaged: set model.kind to linear and "
                "model.linear.strategy to fedavg, fedprox, fedadam, fedyogi or fedadagrad"
            )
        if defence.gate is not None and self.aggregation.evaluate_every != 1:
            raise ValueError(
                "aggregation.defence.gate judges every round: set aggregation.evaluate_every to 1, "
                "or the gate to null"
            )
        if defence.gate is not None and self.privacy.evaluates != "exact":
            raise ValueError(
                "aggregation.defence.gate judges exact counts on held-out rows, which "
                "privacy.evaluation keeps at the sites: set the gate to null"
            )
        if defence.mode == "private" and self.privacy.mechanism not in {"clip", "gaussian"}:
            raise ValueError(
                "aggregation.defence.mode private needs sites that bound their updates: "
                "set privacy.mechanism to clip or gaussian"
            )
        if defence.mode == "grouped":
            masked = self.aggregation.protection == "masks" and self.aggregation.colluding is None
            if not masked:
                raise ValueError(
                    "aggregation.defence.mode grouped sums groups under masks: set "
                    "aggregation.protection to masks, and colluding and failing to null"
                )
            if len(federation.sites) // (defence.groups or 1) < defence.group_minimum:
                raise ValueError(
                    f"aggregation.defence.groups: {len(federation.sites)} sites do not make "
                    f"{defence.groups} groups of {defence.group_minimum} at least"
                )
        if defence.mode == "robust" and defence.trusted_site not in {None, *federation.sites}:
            raise ValueError(
                "aggregation.defence.trusted_site is no site of federation.sites: name one of them"
            )
        if defence.mode == "robust" and defence.hostile > defence.bears(len(federation.sites)):
            raise ValueError(
                f"aggregation.defence.rule {defence.rule} bears "
                f"{defence.bears(len(federation.sites))} hostile sites among "
                f"{len(federation.sites)}: lower aggregation.defence.hostile"
            )
        return self

    @model_validator(mode="after")
    def _masked(self) -> Self:
        aggregation, sites = self.aggregation, len(self.federation.sites)
        if not aggregation.masked:
            return self
        if self.statistics.active:
            self._threshold(sites)
            return self
        summed = {"summed_histograms", *SUMMED_PRIVATELY}
        if self.model.kind == "trees" and self.model.trees.strategy not in summed:
            raise ValueError(
                "aggregation.protection masks sums numbers, and whole trees cannot be summed: "
                "set it to none, or model.trees.strategy to summed_histograms, private_trees or "
                "private_additive"
            )
        if self.model.kind == "linear" and self.model.linear.strategy == "local_dp":
            raise ValueError(
                "aggregation.protection masks knows sums alone, and local_dp publishes single models: "
                "choose another model.linear.strategy"
            )
        if aggregation.protection == "ckks" and self.model.kind != "linear":
            raise ValueError(
                "aggregation.protection ckks takes 64 bytes a number and decrypts every sum at every "
                "site, which sums of many histograms are too large for: set it to masks for model.kind "
                "trees"
            )
        if aggregation.defence.mode == "robust":
            raise ValueError(
                "aggregation.defence.mode robust compares single updates, which protection masks "
                "hides: choose mode private, or protection none"
            )
        self._threshold(sites)
        return self

    def _threshold(self, sites: int) -> None:
        threshold = self.aggregation.threshold
        if threshold is not None and not sites / 2 < threshold <= sites:
            raise ValueError(
                f"aggregation.threshold must be more than half of the {sites} sites and at most "
                "all of them"
            )
        if sites < 2:
            raise ValueError("aggregation.protection masks needs two sites at least")

    def _asking(self) -> None:
        """What a run of statistics asks of the other sections; ``model`` and ``data.scaling`` count for nothing."""
        asked, privacy, sites = self.statistics, self.privacy, self.federation.members
        if privacy.mechanism not in {"none", "gaussian"} or (
            (privacy.mechanism == "gaussian") != (privacy.clipping == "record")
        ):
            raise ValueError(
                "statistics leave exactly (privacy.mechanism none) or with noise on sums of records: "
                "set privacy.mechanism gaussian and privacy.clipping record"
            )
        sealed = {"overlap", "median", "auc"} & set(asked.ask)
        if sealed and self.aggregation.protection != "masks":
            raise ValueError(
                "overlap, median and auc travel under the keys of secure sums: set "
                "aggregation.protection to masks"
            )
        if sealed and self.aggregation.colluding is not None:
            raise ValueError("overlap, median and auc need a complete graph: leave colluding null")
        absent = sorted(set(asked.compute) - set(sites))
        if absent:
            raise ValueError(f"statistics.compute names no member sites: {', '.join(absent)}")
        if self.anonymisation.recoding == "agreed":
            raise ValueError(
                "statistics count rows as they are: set anonymisation.recoding to public"
            )
        if privacy.mechanism == "none":
            if asked.overlap_epsilon is not None:
                raise ValueError("statistics.overlap_epsilon needs privacy.mechanism gaussian")
            return
        exact = sorted({"schema", "median", "auc"} & set(asked.ask))
        if exact:
            raise ValueError(
                f"{', '.join(exact)} would be released exactly, which no epsilon covers: ask for them "
                "in a run with privacy.mechanism none"
            )
        if asked.small_cells == "site":
            raise ValueError(
                "statistics.small_cells site makes a count jump by a whole cell, which the noise does "
                "not cover: set it to sum under differential privacy"
            )
        if "overlap" in asked.ask and asked.overlap_epsilon is None:
            raise ValueError("overlap under differential privacy needs statistics.overlap_epsilon")
        if privacy.unit != "record":
            raise ValueError("statistics are noised per record: set privacy.unit to record")
        if privacy.noise == "coordinator":
            raise ValueError(
                "statistics are noised at the sites: set privacy.noise to site or distributed"
            )
        if asked.summed and privacy.noise == "distributed":
            if not self.aggregation.masked:
                raise ValueError("privacy.noise distributed needs aggregation.protection masks")
            if privacy.dropouts + privacy.colluders >= self.federation.required:
                raise ValueError(
                    "privacy.dropouts and colluders must together be fewer than the sites of a quorum"
                )

    def _private_training(self) -> None:
        """What clipping record and strategy private ask of each other and of the rest."""
        privacy, linear = self.privacy, self.model.linear
        record = privacy.clipping == "record"
        if record != (self.model.chosen.strategy in {"private", *SUMMED_PRIVATELY}):
            raise ValueError(
                "privacy.clipping record and model.linear.strategy private (for trees: private_trees or "
                "private_additive) go together"
            )
        if linear.basis == "additive" and not record:
            raise ValueError("model.linear.basis additive belongs to strategy private")
        if not record:
            return
        if privacy.unit == "person":
            self._person()
        if self.aggregation.evaluate_every and privacy.evaluates == "noised":
            raise ValueError(
                "privacy.evaluation noised is one release at the end: set "
                "aggregation.evaluate_every to 0"
            )
        if privacy.noise == "coordinator" and privacy.evaluates == "noised":
            raise ValueError(
                "privacy.evaluation noised needs noise site or distributed: set it to none"
            )
        if privacy.noise == "distributed":
            protection = getattr(self.aggregation, "protection", "none")
            if protection != "masks" and not privacy.simulate_sums:
                raise ValueError(
                    "privacy.noise distributed needs secure sums (aggregation.protection masks): "
                    "one site's share of the noise protects nobody from who sees single updates. "
                    "privacy.simulate_sums allows it in a simulation, marked as not private "
                    "towards the coordinator"
                )
            if protection == "masks" and privacy.simulate_sums:
                raise ValueError("privacy.simulate_sums has no meaning beside secure sums")
            if privacy.dropouts + privacy.colluders >= self.federation.required:
                raise ValueError(
                    "privacy.dropouts and colluders must together be fewer than the sites of a quorum"
                )

    def _person(self) -> None:
        """What bounding a person's rows asks of preparation."""
        if self.anonymisation.identifiers != "pseudonymise":
            raise ValueError(
                "privacy.unit person tells people apart by their pseudonym: set "
                "anonymisation.identifiers to pseudonymise"
            )
        if self.anonymisation.k > 1:
            raise ValueError(
                "anonymisation.k lets one person's rows move other people's, which privacy.unit "
                "person does not bound: set k to 1"
            )

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of what they state (:meth:`Section.stated`)."""
        return hashlib.sha256(canonical_json(self.stated())).hexdigest()


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
