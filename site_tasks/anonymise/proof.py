"""The proof of a table as it lies on disk: what was written is read back and checked once more.

The engines prove what they are about to write; this step proves what was written, and is done apart,
so that a privacy officer sees it.  Its checker shares no code with any engine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from site_tasks.anonymise.account import load_outcome
from site_tasks.anonymise.chosen import chosen_models, secret_of
from site_tasks.anonymise.generalise import published
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.population import population_chunks, read_population
from site_tasks.anonymise.verify import Checker
from site_tasks.anonymise.verify_recoding import people_cells
from site_tasks.table import chunks

__all__ = ["prove"]


def prove(job: Job, outcome: Path) -> dict[str, Any]:
    """Prove every model on the table at ``job.target``; O(rows · columns), memory O(chunk + classes).

    Parameters
    ----------
    job : Job
        What was anonymised.
    outcome : Path
        What ``account.keep_outcome`` wrote beside the table.

    Returns
    -------
    dict
        ``models``, ``rows`` and the SHA-256 of the file that they hold for.

    Raises
    ------
    PrivacyError
        ``privacy.unproven``, naming models and numbers of classes.
    """
    contract, settings = job.contract, job.settings
    models = chosen_models(contract, settings)
    protected = secret_of(contract, settings)
    quasi = [column.name for column in contract.with_role("quasi_identifier")]
    proof = Checker(models, () if protected is None else protected.domain)
    asked = any(model.reads == "presence" for model in models)
    local = load_outcome(job, outcome) if asked and settings.recoding == "local" else None
    text: dict[int, tuple[Any, ...]] = {}  # cells of each class, as they are written
    kept = [] if local is None else local.classes[local.classes >= 0].tolist()
    names = [*quasi, *(() if protected is None else protected.names)]
    start = 0
    for frame in chunks(job.target, names):
        cells = [frame[name].tolist() for name in quasi]
        secret = None if protected is None else protected.spelled(frame)
        proof.add(cells, secret, rows=len(frame))
        if local is not None:
            text |= dict(
                zip(kept[start : start + len(frame)], zip(*cells, strict=True), strict=True)
            )
        start += len(frame)
    if local is not None:
        population = read_population(job, local.columns)
        numbers = people_cells(local, population)
        proof.add_population(list(zip(*(text[number] for number in numbers), strict=True)))
    elif asked:
        for frame in population_chunks(job):
            shown = published(frame, contract, settings)
            proof.add_population([shown[name].tolist() for name in quasi])
    proof.demand(job.site)
    with job.target.open("rb") as file:
        table = hashlib.file_digest(file, "sha256").hexdigest()
    return {"models": [str(model) for model in models], "rows": proof.rows, "table": table}
