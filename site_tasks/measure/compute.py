"""The steps ``share_counts`` and ``compute``: figures that need more than sums.

Every site splits its counts into three shares, sealed for the three computing sites, and the exchange
carries them.  The computing sites then work together, live: each starts a process of its own
(``site_tasks.measure.party``) and these three must reach each other, on one machine or through tunnels
that end at loopback: MPyC itself sends in the clear.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.exchange import ArtifactRef
from folkmoot.identity import sign
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.events import Exact
from folkmoot.statistics.questions import numeric
from folkmoot.statistics.shared import (
    AREA_BITS,
    BYTES,
    FIELD,
    Figure,
    counts_of,
    figures,
    from_bytes,
    split,
)
from folkmoot.wire import Artefact, encode
from site_tasks import permissions
from site_tasks.home import SiteHome
from site_tasks.measure import allowed
from site_tasks.measure.columns import load_columns
from site_tasks.measure.letters import Letters, listed_senders
from site_tasks.privatise import Sealed
from site_tasks.secure.memory import state_of

__all__ = ["compute", "share_counts"]

#: Bits of the numbers that are compared: twice the pairs of 2^34 rows, times 2^20.
_BITS = 90


def share_counts(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release a share of this site's counts for each computing site, sealed.

    Notes
    -----
    Privacy cost: the figures are exact, which the ledger notes and holds against differencing.
    """
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    letters = Letters.of(step, context, home)
    own = load_columns(context, home)

    def make() -> Mapping[str, Sealed]:
        params, contract = context.params, context.contract
        columns = {column.name: column for column in numeric(params, contract)}
        found = figures(params, contract)
        values = {figure.column: own.values(columns[figure.column]) for figure in found}
        classes = None
        if "auc" in params.statistics.computed:
            classes = own.codes(contract.label)
        shares = split(counts_of(found, columns, values, classes))
        boxes = {}
        for party, data in zip(_parties(context), shares, strict=True):
            boxes[party] = letters.seal(party, "share", data)
        return {
            f"share.{party}": Sealed({"box": np.frombuffer(box, np.uint8)}, Exact())
            for party, box in boxes.items()
        }

    ref = release(
        step,
        context,
        home,
        key=step.outputs[0],
        inputs=[letters.listed, own.fingerprint, own.digest],
        make=make,
        fingerprint=own.fingerprint,
    )
    return [ref]


def compute(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Add up the shares of all listed sites, compute with the other two, publish what was opened.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` where the steward does not let the site compute.
    SecureError
        ``secure.contributors``, ``secure.again``, ``secure.share``.
    TransientError
        ``transient.service`` where the other two do not answer in time.
    """
    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    letters, state = Letters.of(step, context, home), state_of(context, home)
    senders = listed_senders(step, context, home, "share", allowed.fewest(home))
    found = figures(context.params, context.contract)
    total = [0] * found[-1].end
    for site, parts in senders.items():
        box = parts[f"share.{home.name}"]["box"].tobytes()
        data = letters.open(site, "share", box)
        if len(data) != BYTES * len(total):
            raise _odd(site)
        total = [(a + b) % FIELD for a, b in zip(total, from_bytes(data), strict=True)]

    def make() -> bytes:
        opened = _together(context, home, found, total)
        meta = {
            **letters.bound("computed"),
            "site": home.name,
            "senders": sorted(senders),
            "opened": opened,
        }
        return sign(encode(Artefact("computed", meta, {})), home.key())

    made = state.once(f"computed-{step.round:04d}", make, durable=False)
    return [context.store.put(context.key(step.outputs[0]), made)]


def _together(
    context: RunContext, home: SiteHome, found: tuple[Figure, ...], total: list[int]
) -> list[int | None]:
    """Run MPyC's process of this site."""
    asked, parties = context.params.statistics, _parties(context)
    addresses = [asked.compute[party] for party in parties]
    index = parties.index(home.name)
    job = {
        "addresses": addresses,
        "index": index,
        "bits": _BITS,
        "area_bits": AREA_BITS,
        "least": asked.minimum_cell,
        "shares": list(map(str, total)),
        "figures": [figure.to_dict() for figure in found],
    }
    packages = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(dir=home.private, prefix=".mpc-") as place:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "site_tasks.measure.party"],
                input=json.dumps(job),
                capture_output=True,
                text=True,
                cwd=place,
                timeout=asked.compute_seconds,
                env={**os.environ, "PYTHONPATH": paths},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _unreached(home) from None
    try:
        opened = json.loads(done.stdout)
        return [None if one is None else int(one) for one in opened]
    except (ValueError, TypeError):
        if "mpyc" in done.stderr and "ModuleNotFoundError" in done.stderr:
            raise ConfigError(
                "config.installation",
                "Median and AUC need MPyC at the computing sites.",
                "Install the extra: uv pip install -e '.[site,mpc]'.",
                site=home.name,
            ) from None
        raise _unreached(home) from None


def _parties(context: RunContext) -> list[str]:
    return sorted(context.params.statistics.compute)


def _odd(site: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The share of site {site} has another length than the plan's figures.",
        "Check that the site runs the same version of folkmoot, params and contract.",
        site=site,
    )


def _unreached(home: SiteHome) -> TransientError:
    return TransientError(
        "transient.service",
        f"Site {home.name} could not compute with the other two computing sites in time.",
        "Check that all three run at once and reach each other at the addresses of "
        "statistics.compute; the step can be repeated.",
        site=home.name,
    )
