"""Names and receipts of releases: what both sides read about what a site gave away.

``release_id = H(federation, run, round, site, step, inputs, settings)``: a retry, a crash or a
second run with the same inputs has the same id, finds the stored bytes and costs nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from folkmoot.errors import ProtocolError
from folkmoot.params import Params, Privacy
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event, from_dict
from folkmoot.wire import canonical_json

__all__ = ["receipt", "release_id", "spent"]

RELATION = "replace-one"
#: Why exact numbers may stand beside private ones; a privacy officer reads this in the receipt.
UNACCOUNTED = "released exactly, not covered by epsilon"


def release_id(
    *,
    federation: str,
    run: str,
    round: int,
    site: str,
    step: str,
    inputs: Sequence[str],
    params: Params,
) -> str:
    """Identity of a release (64 hex characters); O(inputs).

    Parameters
    ----------
    federation, run, round, site, step
        What the release answers.
    inputs : sequence of str
        Digests of everything it is computed from: incoming model, prepared rows.
    params : Params
        Of it, what changes the content of an update: ``privacy``, ``aggregation`` and ``model``
        without the number of rounds and early stopping, so that a run can be prolonged.
    """
    model = params.model.chosen.model_dump(mode="json", exclude={"rounds", "early_stopping"})
    settings = {
        "kind": params.model.kind,
        "model": model,
        "privacy": params.privacy.model_dump(mode="json"),
        "aggregation": params.aggregation.model_dump(mode="json"),
    }
    identity = {
        "federation": federation,
        "run": run,
        "round": round,
        "site": site,
        "step": step,
        "inputs": list(inputs),
        "settings": settings,
    }
    return hashlib.sha256(b"folkmoot-release-1\0" + canonical_json(identity)).hexdigest()


def receipt(
    identity: str, privacy: Privacy, events: Mapping[str, Mapping[str, Any]], delta: float
) -> dict[str, Any]:
    """What a release says about itself, as JSON values.

    Parameters
    ----------
    identity : str
        The release id.
    privacy : Privacy
        As planned.
    events : mapping
        Per part, its event.
    delta : float
        At which epsilon is reported: the smaller of plan and site.

    Returns
    -------
    dict
        ``private`` is true only where every update part carries a charged event and no noise came
        from a seed.  ``unaccounted`` names the parts that no epsilon covers.
    """
    parsed = {name: from_dict(event) for name, event in events.items()}
    free = sorted(name for name, event in parsed.items() if not event.charged)
    dp = privacy.mechanism in {"gaussian", "diffprivlib"}
    sensitivity = max(
        (float(e["sensitivity"]) for e in events.values() if "sensitivity" in e), default=None
    )
    return {
        "release_id": identity,
        "mechanism": privacy.mechanism,
        "events": {name: dict(event) for name, event in events.items()},
        "clip_norm": privacy.clip_norm if privacy.mechanism in {"clip", "gaussian"} else None,
        "noise_multiplier": privacy.noise_multiplier if privacy.mechanism == "gaussian" else None,
        "sensitivity": sensitivity,
        "unit": privacy.unit,
        "relation": RELATION if dp else None,
        "delta": delta if dp else None,
        "private": dp and not privacy.seeded,
        "seeded": dp and privacy.seeded,
        "unaccounted": dict.fromkeys(free, UNACCOUNTED),
    }


def spent(receipts: Iterable[Mapping[str, Any]], *, mechanism: str, delta: float) -> dict[str, Any]:
    """What one site's releases of a run cost together: the ``privacy`` entry of a round record.

    Parameters
    ----------
    receipts : iterable of dict
        Receipts of the site's releases, each counted once by its ``release_id``.
    mechanism : str
        ``privacy.mechanism`` of the plan.
    delta : float
        At which epsilon is stated.

    Returns
    -------
    dict
        ``epsilon`` (None where nothing bounds it), ``delta``, ``mechanism``, ``events`` (each with
        its ``count``), ``method``, ``unit``, ``relation``, ``private``, ``unaccounted``.

    Raises
    ------
    ProtocolError
        ``protocol.format`` for a receipt that is none, or of another mechanism than planned.
    """
    by_id: dict[str, Mapping[str, Any]] = {}
    for entry in receipts:
        if entry.get("mechanism") != mechanism or not isinstance(entry.get("events"), dict):
            raise ProtocolError(
                "protocol.format",
                "A receipt is malformed, or of another mechanism than the plan's.",
                "Treat the update as forged, or check that both sides run the same version.",
            )
        by_id[str(entry["release_id"])] = entry
    charged: dict[Event, int] = {}
    unaccounted: set[str] = set()
    for entry in by_id.values():
        for name, values in entry["events"].items():
            event = from_dict(values)
            if event.charged:
                charged[event] = charged.get(event, 0) + 1
            else:
                unaccounted.add(str(name))
    dp = mechanism in {"gaussian", "diffprivlib"}
    value, method = epsilon(charged, delta) if dp else (math.inf, "unaccounted")
    return {
        "epsilon": value if math.isfinite(value) else None,
        "delta": delta,
        "mechanism": mechanism,
        "events": [{**event.to_dict(), "count": count} for event, count in charged.items()],
        "method": method,
        "unit": "record",
        "relation": RELATION if dp else None,
        "private": dp and all(bool(entry.get("private")) for entry in by_id.values()),
        "unaccounted": sorted(unaccounted),
    }
