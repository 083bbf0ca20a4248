"""Names and receipts of releases: what both sides read about what a site gave away.

``release_id = H(federation, run, round, site, step, inputs, settings)``: a retry, a crash or a
second run with the same inputs has the same id, finds the stored bytes and costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from folkmoot.contract import Contract
from folkmoot.params import Params, Privacy
from folkmoot.privacy.accountant import count, epsilon
from folkmoot.privacy.events import Event, Gaussian, PureDP, from_dict
from folkmoot.privacy.training import schedule
from folkmoot.wire import canonical_json

__all__ = ["charge", "planned", "receipt", "release_id"]

RELATION = "replace-one"
#: Why exact numbers may stand beside private ones; a privacy officer reads this in the receipt.
UNACCOUNTED = "released exactly, not covered by epsilon"
#: Params that were asked for last, which are frozen, and what they say: a run has one of them.
_latest: tuple[Params, Mapping[str, Any]] | None = None


def charge(privacy: Privacy, part: str = "update") -> dict[str, Event]:
    """What releasing one trained update costs, known before it is computed.

    Parameters
    ----------
    privacy : Privacy
        As planned.
    part : str
        Name of the update among the parts of its release.

    Returns
    -------
    dict
        The part's event; empty for ``none`` and ``clip``.
    """
    if privacy.mechanism == "gaussian":
        sensitivity = 2 * privacy.clip_norm  # whatever the site's rows become: of a person as well
        return {part: Gaussian(privacy.noise_multiplier, sensitivity, privacy.unit)}
    if privacy.mechanism == "diffprivlib" and privacy.epsilon is not None:
        return {part: PureDP(privacy.epsilon)}
    return {}


def planned(params: Params, contract: Contract) -> dict[Event, int]:
    """What a whole run will charge each site at most, with counts; known before its first round.

    Where ``privacy.epsilon`` is the budget of a run, rounds end before it would be passed; under
    clipping ``record`` the schedule spends it and no more.
    """
    if params.statistics.active:
        from folkmoot.statistics import noise

        return dict(noise.planned(params, contract))
    if params.privacy.clipping == "record":
        run = schedule(params, contract)
        return count([r.event for r in (*run.releases, run.evaluation) if r is not None])
    events = charge(params.privacy).values()
    rounds, budget = params.model.rounds, params.privacy.epsilon
    if params.privacy.mechanism == "gaussian" and budget is not None:
        delta, low = params.privacy.delta, 0
        while low < rounds:  # the most rounds that fit, by halving
            middle = (low + rounds + 1) // 2
            fits = epsilon(dict.fromkeys(events, middle), delta)[0] <= budget
            low, rounds = (middle, rounds) if fits else (low, middle - 1)
    return dict.fromkeys(events, rounds) if rounds else {}


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
    identity = {
        "federation": federation,
        "run": run,
        "round": round,
        "site": site,
        "step": step,
        "inputs": list(inputs),
        "settings": _settings(params),
    }
    return hashlib.sha256(b"folkmoot-release-1\0" + canonical_json(identity)).hexdigest()


def _settings(params: Params) -> Mapping[str, Any]:
    """Of params what changes the content of an update, as JSON values."""
    global _latest
    if _latest is not None and _latest[0] is params:
        return _latest[1]
    model = params.model.chosen.stated(exclude={"rounds", "early_stopping"})
    settings: dict[str, Any] = {
        "kind": params.model.kind,
        "model": model,
        "privacy": params.privacy.stated(),
        "aggregation": params.aggregation.stated(),
    }
    if params.statistics.active:
        settings = {
            "kind": params.kind,
            "statistics": params.statistics.stated(),
            "privacy": settings["privacy"],
            "aggregation": settings["aggregation"],
        }
    _latest = params, settings
    return settings


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
        ``private`` is true only under a mechanism with an epsilon and where no noise came from a
        seed.  ``unaccounted`` names the parts that this epsilon does not cover.
    """
    parsed = {name: from_dict(event) for name, event in events.items()}
    free = sorted(name for name, event in parsed.items() if not event.charged)
    dp = privacy.mechanism in {"gaussian", "diffprivlib"}
    sensitivity = max(
        (float(e["sensitivity"]) for e in events.values() if "sensitivity" in e), default=None
    )
    if privacy.clipping == "record":
        return _record(identity, privacy, events, delta, free)
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


def _record(
    identity: str,
    privacy: Privacy,
    events: Mapping[str, Mapping[str, Any]],
    delta: float,
    free: Sequence[str],
) -> dict[str, Any]:
    """Receipt under clipping record: every number is in the events; who adds the noise is said.

    ``private`` speaks of the release itself: a share of noise, or none, protects nobody from who
    reads single releases in the clear.
    """
    clear = privacy.noise == "coordinator" or privacy.simulate_sums
    return {
        "release_id": identity,
        "mechanism": privacy.mechanism,
        "clipping": "record",
        "noise": privacy.noise,
        "events": {name: dict(event) for name, event in events.items()},
        "clip_norm": None,
        "noise_multiplier": None,
        "sensitivity": max((float(e["sensitivity"]) for e in events.values()), default=None),
        "unit": privacy.unit,
        "relation": privacy.relation,
        "delta": delta,
        "private": not privacy.seeded and not clear,
        "seeded": privacy.seeded,
        "unaccounted": dict.fromkeys(free, UNACCOUNTED),
    }
