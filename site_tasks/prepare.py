"""The steps before anything is trained: version, validate, anonymise (verify, report), encode.

Each finds its result under the name of its stage or makes it (:mod:`site_tasks.preparation`), from
the version that the run uses (:mod:`site_tasks.run_version`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.agreement import schema_digest
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.events import EXACT
from folkmoot.updates import Part, Statistics
from folkmoot.wire import decode as decode_artefact
from site_tasks.home import SiteHome
from site_tasks.preparation import (
    anonymised_table,
    demand_answered,
    encoded_rows,
    job_of,
    prove_table,
    risk_report,
    stages_of,
    validated_report,
)
from site_tasks.prepared import Prepared, accounted, enough_rows
from site_tasks.run_version import dataset_file, record_of, resolve_version

if TYPE_CHECKING:
    from site_tasks.anonymise.job import Job

__all__ = [
    "anonymise",
    "anonymised_name",
    "dataset_of",
    "encode",
    "prepare_again",
    "report",
    "schema_meta",
    "validate",
    "validated_job",
    "validated_table",
    "verify",
    "version",
]


def version(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Resolve the dataset version that this run uses at this site, and write it down there."""
    home = SiteHome.find(step.place, context.workspace)
    resolve_version(context, home)
    return []


def validate(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Hold the dataset to the contract; raises as ``site_tasks.validate.validate_table``."""
    home = SiteHome.find(step.place, context.workspace)
    validated_report(context, home, record_of(context, home))
    return []


def anonymise(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Drop or pseudonymise identifiers, recode, suppress small classes, prove, write."""
    home = SiteHome.find(step.place, context.workspace)
    anonymised_table(context, home, record_of(context, home))
    return []


def verify(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Prove the anonymised table as it was written; raises as ``site_tasks.anonymise.proof``."""
    home = SiteHome.find(step.place, context.workspace)
    prove_table(context, home, record_of(context, home))
    return []


def report(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Write the risk report beside the anonymised table; nothing of it leaves here."""
    home = SiteHome.find(step.place, context.workspace)
    risk_report(context, home, record_of(context, home))
    return []


def encode(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Write the arrays that training reads, and release their summed statistics.

    Privacy
    -------
    Exact sums leave under mechanisms ``none`` and ``clip``; under differential privacy only the
    signed receipt with the keyed dataset fingerprint does.
    """
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    record = record_of(context, home)
    prepared = encoded_rows(context, home, record)
    enough_rows(prepared, home, context.params)

    def make() -> Mapping[str, Part]:
        if context.params.privacy.mechanism not in EXACT:
            return {}
        if context.params.aggregation.masked:
            return {}  # they leave later, under masks
        data = (prepared.folder / "statistics.bin").read_bytes()
        return {"statistics": Statistics(decode_artefact(data, kind="statistics").arrays)}

    return [
        release(
            step,
            context,
            home,
            key=step.outputs[0],
            inputs=[prepared.fingerprint, prepared.digest],
            make=make,
            fingerprint=prepared.fingerprint,
            meta={**schema_meta(context), **_summary(context, home, record)},
        )
    ]


def schema_meta(context: RunContext) -> dict[str, str]:
    """Digest of the schema that was settled on, so that the coordinator sees one at every site."""
    if context.params.anonymisation.settled is None:
        return {}
    return {"schema": schema_digest(context.contract, context.params.anonymisation)}


def _summary(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the risk report that the site's ``site.toml`` lets leave; none by default.

    They are exact, so none leave where a budget is claimed for all that leaves.
    """
    allowed = home.settings.anonymisation.summary
    if not allowed or accounted(context.params):
        return {}
    from site_tasks.anonymise.risk.report import summary

    report = risk_report(context, home, record)
    return {} if report is None else {"risk": summary(report, allowed)}


def prepare_again(context: RunContext, home: SiteHome, record: dict[str, Any] | None) -> Prepared:
    """Make prepared rows that are gone from the work folder; nothing is released.

    Raises
    ------
    DataError
        ``data.version`` where the dataset is no longer the version that the run began with.
    """
    found = resolve_version(context, home, record)
    return encoded_rows(context, home, found)


def validated_job(context: RunContext, home: SiteHome) -> tuple[Job, str]:
    """The site's validated table as it is to be anonymised, and the name of its stage."""
    from site_tasks.anonymise.table import pinned

    record = record_of(context, home)
    pinned(home, context.contract, context.params.anonymisation)
    demand_answered(home, validated_report(context, home, record))
    stage = stages_of(context, record).validated
    return job_of(context, home, record, home.work / "agreed" / "table"), stage


def dataset_of(context: RunContext, home: SiteHome) -> tuple[str, Path]:
    """Keyed fingerprint and file of the run's dataset version."""
    record = record_of(context, home)
    return str(record["fingerprint"]), dataset_file(record)


def validated_table(context: RunContext, home: SiteHome) -> Path:
    """The file of the run's dataset version, held to the contract; its findings are answered."""
    record = record_of(context, home)
    demand_answered(home, validated_report(context, home, record))
    return dataset_file(record)


def anonymised_name(context: RunContext, home: SiteHome) -> str:
    """Name of the run's anonymised table: equal names, equal tables; keyed as fingerprints are."""
    return stages_of(context, record_of(context, home)).anonymised
