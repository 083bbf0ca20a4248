"""The steps before anything is trained: version, validate, anonymise (verify, report), encode.

Each finds its result under the name of its stage (``site_tasks.prepared.Stages``) or makes it;
an unchanged dataset version under unchanged params costs a few small JSON files, no pandas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.agreement import schema_digest
from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.exchange import ArtifactRef
from folkmoot.features import feature_space
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step
from folkmoot.updates import Part, Statistics
from folkmoot.wire import Artefact, canonical_json
from folkmoot.wire import decode as decode_artefact
from folkmoot.wire import encode as encode_artefact
from site_tasks.home import SiteHome
from site_tasks.prepared import (
    Prepared,
    Stages,
    accounted,
    enough_rows,
    find_prepared,
    read_json,
    run_record,
    write_folder,
    write_json,
)

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

#: What became of every row, beside the anonymised table.
OUTCOME = "outcome.npz"


def version(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Resolve the dataset version that this run uses at this site, and write it down there."""
    home = SiteHome.find(step.place, context.workspace)
    _resolve(context, home)
    return []


def validate(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Hold the dataset to the contract; raises as ``site_tasks.validate.validate_table``."""
    home = SiteHome.find(step.place, context.workspace)
    _validated(context, home, _record(context, home))
    return []


def anonymise(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Drop or pseudonymise identifiers, recode, suppress small classes, prove, write."""
    home = SiteHome.find(step.place, context.workspace)
    _anonymised(context, home, _record(context, home))
    return []


def verify(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Prove the anonymised table as it was written; raises as ``site_tasks.anonymise.proof``."""
    home = SiteHome.find(step.place, context.workspace)
    _proven(context, home, _record(context, home))
    return []


def report(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Write the risk report beside the anonymised table; nothing of it leaves here."""
    home = SiteHome.find(step.place, context.workspace)
    _reported(context, home, _record(context, home))
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
    record = _record(context, home)
    prepared = _encoded(context, home, record)
    enough_rows(prepared, home, context.params)

    def make() -> Mapping[str, Part]:
        if context.params.privacy.mechanism not in {"none", "clip"}:
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

    report = _reported(context, home, record)
    return {} if report is None else {"risk": summary(report, allowed)}


def prepare_again(context: RunContext, home: SiteHome, record: dict[str, Any] | None) -> Prepared:
    """Make prepared rows that are gone from the work folder; nothing is released.

    Raises
    ------
    DataError
        ``data.version`` where the dataset is no longer the version that the run began with.
    """
    found = _resolve(context, home, record)
    return _encoded(context, home, found)


def validated_job(context: RunContext, home: SiteHome) -> tuple[Job, str]:
    """The site's validated table as it is to be anonymised, and the name of its stage."""
    from site_tasks.anonymise.table import pinned

    record = _record(context, home)
    pinned(home, context.contract, context.params.anonymisation)
    _answered(home, _validated(context, home, record))
    stage = _stages(context, record).validated
    return _job(context, home, record, home.work / "agreed" / "table"), stage


def dataset_of(context: RunContext, home: SiteHome) -> tuple[str, Path]:
    """Keyed fingerprint and file of the run's dataset version."""
    record = _record(context, home)
    return str(record["fingerprint"]), _dataset(record)


def validated_table(context: RunContext, home: SiteHome) -> Path:
    """The file of the run's dataset version, held to the contract; its findings are answered."""
    record = _record(context, home)
    _answered(home, _validated(context, home, record))
    return _dataset(record)


def anonymised_name(context: RunContext, home: SiteHome) -> str:
    """Name of the run's anonymised table: equal names, equal tables; keyed as fingerprints are."""
    return _stages(context, _record(context, home)).anonymised


def _resolve(
    context: RunContext, home: SiteHome, expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    from site_tasks.dataset import resolve

    found = resolve(home, home.settings.dataset.revision)
    if expected is not None and found.fingerprint != expected["fingerprint"]:
        raise _changed()
    record = {"fingerprint": found.fingerprint, "path": str(found.path), "stat": _stat(found.path)}
    path = run_record(context, home)
    if read_json(path) != record:
        write_json(path, record)
    return record


def _record(context: RunContext, home: SiteHome) -> dict[str, Any]:
    return read_json(run_record(context, home)) or _resolve(context, home)


def _stages(context: RunContext, record: Mapping[str, Any]) -> Stages:
    return Stages.of(record["fingerprint"], context.contract, context.params)


def _validated(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> dict[str, Any]:
    folder = home.work / "validated" / _stages(context, record).validated
    report = read_json(folder / "report.json")
    if report is None:
        from site_tasks.validate import validate_table

        # Public settings that no data can mend are refused before the data is read.
        feature_space(context.contract, context.params.anonymisation, context.params.model.kind)
        from site_tasks.anonymise.scan import scan_table

        report = validate_table(_dataset(record), context.contract)
        findings = scan_table(_dataset(record), context.contract)
        report = {**report, "findings": [[f.column, f.kind] for f in findings]}
        _unchanged(record)
        with write_folder(folder) as part:
            write_json(part / "report.json", report)
    return report


def _anonymised(
    context: RunContext, home: SiteHome, record: Mapping[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Report, and the table: the dataset itself where nothing has to change."""
    from site_tasks.anonymise.table import pinned

    folder = home.work / "anonymised" / _stages(context, record).anonymised
    table = folder / "table.parquet"
    pinned(home, context.contract, context.params.anonymisation)
    validated = _validated(context, home, record)
    _answered(home, validated)
    report = read_json(folder / "report.json")
    if report is None:
        from site_tasks.anonymise.generalise import needed
        from site_tasks.anonymise.job import Report
        from site_tasks.anonymise.table import anonymise_table

        with write_folder(folder) as part:
            if needed(context.contract, context.params.anonymisation):
                from site_tasks.agree import own_limit, remember

                job = _job(context, home, record, part / table.name)
                stage = _stages(context, record).validated
                made = anonymise_table(own_limit(job, context, home, stage))
                remember(context, home)
            else:
                made = Report(validated["rows"], 0, 1)
            _unchanged(record)
            report = made.to_dict()
            write_json(part / "report.json", report)
    return report, table if table.exists() else _dataset(record)


def _proven(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> None:
    """The proof of the table as it lies there; made once per table."""
    if not context.params.anonymisation.active:
        return
    _, table = _anonymised(context, home, record)
    if read_json(table.parent / "proof.json") is None:
        from site_tasks.anonymise.proof import prove

        job = _job(context, home, record, table)
        write_json(table.parent / "proof.json", prove(job, table.parent / OUTCOME))


def _reported(
    context: RunContext, home: SiteHome, record: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The risk report; None where no model is asked for, or no number of classes can be told."""
    if not context.params.anonymisation.active:
        return None
    made, table = _anonymised(context, home, record)
    found = read_json(table.parent / "risk.json")
    if found is None and context.contract.with_role("quasi_identifier"):
        from site_tasks.anonymise.account import coded_table, load_outcome, write_report

        job = _job(context, home, record, table)
        coded = coded_table(job)
        outcome = load_outcome(job, table.parent / OUTCOME, coded)
        job = replace(job, report=table.parent)
        found = write_report(job, outcome, coded, made["difference"])
    return found


def _answered(home: SiteHome, validated: Mapping[str, Any]) -> None:
    """Every finding of the identifier scan has its answer in site.toml."""
    if validated["findings"]:
        from site_tasks.anonymise.scan import Finding, demand_answers

        findings = [Finding(column, kind) for column, kind in validated["findings"]]
        demand_answers(findings, home.settings.anonymisation.accepted, home.name)


def _job(context: RunContext, home: SiteHome, record: Mapping[str, Any], target: Path) -> Job:
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
        _dataset(record),
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


def _encoded(context: RunContext, home: SiteHome, record: Mapping[str, Any]) -> Prepared:
    digest = _stages(context, record).encoded
    found = find_prepared(context, home, digest)
    if found is not None:
        return found
    from site_tasks.encode import encode_table

    report, table = _anonymised(context, home, record)
    _proven(context, home, record)
    with write_folder(home.work / "encoded" / digest) as part:
        rows = encode_table(table, report["rows"], part, context.contract, context.params)
        _unchanged(record)
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


def _dataset(record: Mapping[str, Any]) -> Path:
    _unchanged(record)
    return Path(record["path"])


def _unchanged(record: Mapping[str, Any]) -> None:
    """The bytes that are read must be those whose version was resolved."""
    path = Path(record["path"])
    if not path.exists():
        raise DataError(
            "data.missing",
            f"The dataset {path.name} does not exist.",
            "Add one with `folkmoot site refresh`, or fetch the recorded version with `dvc pull`.",
        )
    if _stat(path) != record["stat"]:
        raise _changed()


def _stat(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _changed() -> DataError:
    return DataError(
        "data.version",
        "The dataset changed after this run had resolved its version.",
        "Restore the version with `dvc checkout`, or start a new run on the new version.",
    )
