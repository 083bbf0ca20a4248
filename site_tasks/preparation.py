"""What each stage of the preparation makes, found under the name of its stage or made.

An unchanged dataset version under unchanged params costs a few small JSON files, no pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.features import feature_space
from folkmoot.params import Params
from folkmoot.plan import RunContext
from folkmoot.wire import Artefact, canonical_json
from folkmoot.wire import encode as encode_artefact
from site_tasks.home import SiteHome
from site_tasks.prepared import (
    Prepared,
    Stages,
    accounted,
    find_prepared,
    read_json,
    write_folder,
    write_json,
)
from site_tasks.run_version import dataset_file, demand_unchanged

if TYPE_CHECKING:
    from site_tasks.anonymise.job import Job

__all__ = [
    "OUTCOME",
    "anonymised_table",
    "demand_answered",
    "encoded_rows",
    "job_of",
    "prove_table",
    "risk_report",
    "stages_of",
    "validated_report",
]

#: What became of every row, beside the anonymised table.
OUTCOME = "outcome.npz"


def stages_of(context: RunContext, record: Mapping[str, Any]) -> Stages:
    """Names of the stages for a run and its dataset version."""
    return Stages.of(record["fingerprint"], context.contract, context.params)


def validated_report(
    context: RunContext, home: SiteHome, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Figures of the validation, and the findings of the identifier scan."""
    folder = home.work / "validated" / stages_of(context, record).validated
    report = read_json(folder / "report.json")
    if report is None:
        from site_tasks.validate import validate_table

        # Public settings that no data can mend are refused before the data is read.
        feature_space(context.contract, context.params.anonymisation, context.params.model.kind)
        from site_tasks.anonymise.scan import scan_table

        report = validate_table(dataset_file(record), context.contract)
        findings = scan_table(dataset_file(record), context.contract)
        report = {**report, "findings": [[f.column, f.kind] for f in findings]}
        demand_unchanged(record)
        with write_folder(folder) as part:
            write_json(part / "report.json", report)
    return report


def anonymised_table(
    context: RunContext, home: SiteHome, record: Mapping[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Report, and the table: the dataset itself where nothing has to change."""
    from site_tasks.anonymise.table import pinned

    folder = home.work / "anonymised" / stages_of(context, record).anonymised
    table = folder / "table.parquet"
    pinned(home, context.contract, context.params.anonymisation)
    validated = validated_report(context, home, record)
    demand_answered(home, validated)
    report = read_json(folder / "report.json")
    if report is None:
        from site_tasks.anonymise.generalise import needed
        from site_tasks.anonymise.job import Report
        from site_tasks.anonymise.table import anonymise_table

        with write_folder(folder) as part:
            if needed(context.contract, context.params.anonymisation):
                from site_tasks.agree import own_limit, remember

                job = job_of(context, home, record, part / table.name)
                stage = stages_of(context, record).validated
                made = anonymise_table(own_limit(job, context, home, stage))
                remember(context, home)
            else:
                made = Report(validated["rows"], 0, 1)
            demand_unchanged(record)
            report = made.to_dict()
            write_json(part / "report.json", report)
    return report, table if table.exists() else dataset_file(record)


def prove_table(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> None:
    """The proof of the table as it lies there; made once per table."""
    if not context.params.anonymisation.active:
        return
    _, table = anonymised_table(context, home, record)
    if read_json(table.parent / "proof.json") is None:
        from site_tasks.anonymise.proof import prove

        job = job_of(context, home, record, table)
        write_json(table.parent / "proof.json", prove(job, table.parent / OUTCOME))


def risk_report(
    context: RunContext, home: SiteHome, record: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The risk report; None where no model is asked for, or no number of classes can be told."""
    if not context.params.anonymisation.active:
        return None
    made, table = anonymised_table(context, home, record)
    found = read_json(table.parent / "risk.json")
    if found is None and context.contract.with_role("quasi_identifier"):
        from site_tasks.anonymise.account import coded_table, load_outcome, write_report

        job = job_of(context, home, record, table)
        coded = coded_table(job)
        outcome = load_outcome(job, table.parent / OUTCOME, coded)
        job = replace(job, report=table.parent)
        found = write_report(job, outcome, coded, made["difference"])
    return found


def demand_answered(home: SiteHome, validated: Mapping[str, Any]) -> None:
    """Every finding of the identifier scan has its answer in site.toml."""
    if validated["findings"]:
        from site_tasks.anonymise.scan import Finding, demand_answers

        findings = [Finding(column, kind) for column, kind in validated["findings"]]
        demand_answers(findings, home.settings.anonymisation.accepted, home.name)


def job_of(context: RunContext, home: SiteHome, record: Mapping[str, Any], target: Path) -> Job:
    """What is anonymised; earlier versions count unless their difference is accounted for."""
    from site_tasks.anonymise.job import Job
    from site_tasks.anonymise.series import series_name

    settings, own = context.params.anonymisation, home.settings
    secret = home.secret()
    series = None
    if settings.k > 1 and not accounted(context.params):
        name = series_name(
            secret,
            own.dataset.lineage.encode(),
            context.contract.digest().encode(),
            canonical_json(settings.stated()),
        )
        series = home.private / "series" / f"{name}.npz"
    population = own.anonymisation.population
    return Job(
        dataset_file(record),
        target,
        context.contract,
        settings,
        secret,
        record["fingerprint"],
        series,
        None if population is None else home.root / population,
        home.name,
        outcome=target.parent / OUTCOME if settings.active else None,
    )


def encoded_rows(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> Prepared:
    """The arrays that training reads, of rows whose anonymisation is proven."""
    digest = stages_of(context, record).encoded
    found = find_prepared(context, home, digest)
    if found is not None:
        return found
    from site_tasks.encode import encode_table

    report, table = anonymised_table(context, home, record)
    prove_table(context, home, record)
    with write_folder(home.work / "encoded" / digest) as part:
        rows = encode_table(table, report["rows"], part, context.contract, context.params)
        demand_unchanged(record)
        prepared = Prepared(
            feature_space(
                context.contract, context.params.anonymisation, context.params.model.kind
            ),
            rows,
            record["fingerprint"],
            digest,
            report["stability"],
            part,
        )
        _finish(prepared, context.contract, context.params)
    made = find_prepared(context, home, digest)
    if made is None:
        raise RuntimeError("prepared rows vanished while they were made")
    return made


def _finish(prepared: Prepared, contract: Contract, params: Params) -> None:
    """Check the parts, sum the training rows, and mark the folder complete."""
    from site_tasks.statistics import sums

    for part, count in prepared.rows.items():
        if count == 0:
            raise DataError(
                "data.too-few-rows",
                f"The dataset has no rows for part {part}.",
                "Add rows, or change the split column or data.holdout.fraction.",
            )
    arrays = sums(prepared.blocks("train"), prepared.features, contract)
    artefact = encode_artefact(Artefact("statistics", {}, arrays))
    (prepared.folder / "statistics.bin").write_bytes(artefact)
    values = {
        "rows": prepared.rows,
        "fingerprint": prepared.fingerprint,
        "stability": prepared.stability,
    }
    write_json(prepared.folder / "prepared.json", values)
