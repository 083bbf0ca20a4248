"""The step ``statistics`` of a round: a site's sums, through the release door."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.exchange import ArtifactRef
from folkmoot.generalisation import bounds_of
from folkmoot.plan import RunContext, Step
from folkmoot.statistics import count
from folkmoot.statistics.noise import charges, releases, share_of
from folkmoot.statistics.questions import (
    COUNT_EXPONENT,
    SCHEMA,
    categorical,
    numeric,
    parts_of,
    resolution,
    start,
)
from folkmoot.updates import Statistics
from folkmoot.wire import canonical_json, decode
from site_tasks import orders
from site_tasks.home import SiteHome
from site_tasks.measure.columns import Columns, load_columns
from site_tasks.privatise import ClippedSum, Raw

__all__ = ["content", "sums"]

Whole = NDArray[np.int64]


def sums(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release what this site adds to the sums of a round.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` for what the steward does not permit; as the release door.
    ProtocolError
        ``protocol.mismatch`` for intervals that do not lie within the public bounds.

    Notes
    -----
    Privacy cost: exact without ``privacy.mechanism gaussian``, one ledger entry, held against
    differencing; else that of ``folkmoot.statistics.noise.charges``.
    """
    from site_tasks.prepare import dataset_of
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    data = orders.read(context, step.inputs[0])
    intervals = _intervals(decode(data, kind="model").arrays, context)
    fingerprint, _ = dataset_of(context, home)
    return [
        release(
            step,
            context,
            home,
            key=step.outputs[0],
            inputs=[hashlib.sha256(data).hexdigest(), fingerprint],
            make=lambda: _made(step, context, home, intervals),
            fingerprint=fingerprint,
            costs=charges(context.params, context.contract, step.round),
        )
    ]


def content(step: Step, context: RunContext, home: SiteHome) -> str:
    """Digest of what this site's sums depend on, but for the run: rows, questions, intervals."""
    from site_tasks.prepare import dataset_of

    state = decode(orders.read(context, step.inputs[0]), kind="model")
    asked = context.params.statistics.stated()
    parts = [part.name for part in parts_of(context.params, context.contract, step.round)]
    values = [dataset_of(context, home)[0], parts, asked, context.contract.digest()]
    intervals = np.asarray(state.arrays["intervals"]).tobytes()
    return hashlib.sha256(canonical_json(values) + intervals).hexdigest()


def _made(
    step: Step, context: RunContext, home: SiteHome, intervals: NDArray[np.float64]
) -> Mapping[str, Raw]:
    params, contract = context.params, context.contract
    parts = parts_of(params, contract, step.round)
    found: dict[str, Whole] = {}
    names = {part.name for part in parts}
    if names - {"schema"}:
        found = _counted(load_columns(context, home), context, names, intervals)
    if "schema" in names:
        found["schema"] = _schema(context, home)
    if params.statistics.small_cells == "site":
        found = count.leave_out_small(found, params.statistics.minimum_cell)
    planned = releases(params, contract)
    if not planned:
        return {part.name: Statistics({"counts": found[part.name]}) for part in parts}
    share = share_of(params, contract)
    return {
        part.name: ClippedSum(_steps(part.name, found[part.name]), planned[part.name], share)
        for part in parts
    }


def _steps(part: str, counts: Whole) -> Whole:
    """Counts in the steps that noise is drawn in; sums on the grid have theirs."""
    return counts if part in {"moments.sum", "moments.square"} else counts << COUNT_EXPONENT


def _counted(
    own: Columns, context: RunContext, names: set[str], intervals: NDArray[np.float64]
) -> dict[str, Whole]:
    params, contract = context.params, context.contract
    asked = params.statistics
    columns, groups = numeric(params, contract), categorical(params, contract)
    out: dict[str, Whole] = {}
    if "categories" in names:
        sizes = [len(column.categories or ()) for column in groups]
        out["categories"] = count.counts_by_category([own.codes(c) for c in groups], sizes)
    if "classes" in names:
        codes = own.codes(contract.label)
        out["classes"] = count.counts_by_category([codes], [len(contract.classes)])[:-1]
    if names <= out.keys() | {"schema"}:
        return out
    values = [own.values(column) for column in columns]
    if "histogram" in names:
        out["histogram"] = count.histograms(values, columns, asked.bins)
    if "moments.count" in names:
        out |= count.moments(values, columns, resolution(params))
    if "quantiles" in names:
        tops = [bounds_of(column)[1] for column in columns]
        out["quantiles"] = count.ranks(values, intervals, tops, asked.bins)
    if "quantiles.tree" in names:
        out["quantiles.tree"] = count.tree(values, columns, asked.bins)
    return out


def _schema(context: RunContext, home: SiteHome) -> Whole:
    """Per column of the contract, one of four: agrees, is absent, has another type or other values."""
    from site_tasks.prepare import dataset_of
    from site_tasks.validate import schema_faults

    _, path = dataset_of(context, home)
    faults = schema_faults(path, context.contract)
    table = np.zeros((len(context.contract.columns), len(SCHEMA)), np.int64)
    for row, column in zip(table, context.contract.columns, strict=True):
        row[SCHEMA.index(faults.get(column.name, "agree"))] = 1
    return table.ravel()


def _intervals(
    arrays: Mapping[str, NDArray[np.generic]], context: RunContext
) -> NDArray[np.float64]:
    """Where quantiles are looked for: within the bounds, or nothing is counted."""
    widest = start(context.params, context.contract)
    found = arrays.get("intervals")
    fits = (
        found is not None
        and found.dtype == np.float64
        and found.shape == widest.shape
        and bool((found[..., 0] < found[..., 1]).all())  # type: ignore[operator]
        and bool((found[..., 0] >= widest[..., 0]).all())  # type: ignore[operator]
        and bool((found[..., 1] <= widest[..., 1]).all())  # type: ignore[operator]
    )
    if not fits:
        raise ProtocolError(
            "protocol.mismatch",
            "The intervals that quantiles are looked for in do not lie within the public bounds.",
            "Check that coordinator and site run the same version of folkmoot.",
        )
    return np.asarray(found, np.float64)
