"""What a run is opened with: ``run.json``, written and read by versions that need not be the same.

It holds params, contract and the members' keys in full, which version opened the run, and under
``defaults`` the keys that nobody set.  A reader that does not know a key leaves it out where it holds
its default, since a key that is left out means what it meant before there was one; it refuses the run
where the key was set, for then it could not do what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import folkmoot
from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError
from folkmoot.identity import Roster
from folkmoot.params import Params
from folkmoot.plan import keys
from folkmoot.versions import demand

__all__ = ["opening", "read_opening", "same_settings"]

T = TypeVar("T", bound=BaseModel)


def opening(run: str, params: Params, contract: Contract, roster: Roster) -> dict[str, Any]:
    """What ``run.json`` holds, as JSON values; of the roster the members alone."""
    own = {} if roster.coordinator is None else {"coordinator": roster.coordinator}
    unset = [
        *_unset("params", params.model_dump(mode="json"), params.stated()),
        *_unset("contract", contract.model_dump(mode="json"), contract.stated()),
    ]
    return {
        **own,
        "folkmoot": folkmoot.__version__,
        "run": run,
        "federation": params.federation.name,
        "params": params.model_dump(mode="json"),
        "contract": contract.model_dump(mode="json"),
        "defaults": unset,
        "roster": {s: roster.keys[s] for s in params.federation.members if s in roster.keys},
    }


def read_opening(data: bytes, run: str, federation: str) -> tuple[Params, Contract, Roster]:
    """Params, contract and roster of a run that this version or its neighbour opened.

    Raises
    ------
    ProtocolError
        ``protocol.version`` for a run of a version that is too far away, or that sets what this
        version does not know; ``protocol.format`` for a damaged ``run.json``;
        ``protocol.mismatch`` for another run's.
    """
    try:
        values = json.loads(data)
        version = values.get("folkmoot", folkmoot.__version__)
        unset = frozenset(map(str, values.get("defaults", ())))
        if not isinstance(version, str):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise _damaged(run) from None
    demand(version, f"Run {run} was opened with")
    try:
        params = _read(Params, "params", values["params"], unset, run, version)
        contract = _read(Contract, "contract", values["contract"], unset, run, version)
        known = {str(site): str(key) for site, key in values["roster"].items()}
        own = values.get("coordinator")
        roster = Roster(known, None if own is None else str(own))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(run) from None
    if (values.get("run", run), params.federation.name) != (run, federation):
        raise ProtocolError(
            "protocol.mismatch",
            f"{keys.RUN} of run {run} is that of another run or federation.",
            "Find out who published it, or start a new run.",
        )
    return params, contract, roster


def same_settings(opened: bytes, wanted: Mapping[str, Any]) -> bool:
    """Whether a published ``run.json`` opens what ``wanted`` would, by whichever version.

    Raises
    ------
    ProtocolError
        As :func:`read_opening`.
    """
    run, federation = str(wanted["run"]), str(wanted["federation"])
    params, contract, roster = read_opening(opened, run, federation)
    found = opening(run, params, contract, roster)
    return found == dict(wanted)


def _unset(path: str, full: Any, stated: Any) -> Iterator[str]:
    """Keys of ``full`` that are not in ``stated``; of a section that nobody touched its own name."""
    if isinstance(full, dict) and isinstance(stated, dict):
        for name, value in full.items():
            if name not in stated:
                yield f"{path}.{name}"
            else:
                yield from _unset(f"{path}.{name}", value, stated[name])
    elif isinstance(full, list) and isinstance(stated, list):
        for number, (value, other) in enumerate(zip(full, stated, strict=True)):
            yield from _unset(f"{path}.{number}", value, other)


def _read(
    kind: type[T], section: str, values: Any, unset: frozenset[str], run: str, version: str
) -> T:
    """``values`` as a ``kind``, without the keys of another version that nobody set."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        if version == folkmoot.__version__:
            raise
        faults = error.errors(include_input=False, include_url=False, include_context=False)
    paths = [tuple(fault["loc"]) for fault in faults]
    foreign = [
        path
        for path, fault in zip(paths, faults, strict=True)
        if fault["type"] != "extra_forbidden" or not _inert(section, path, unset)
    ]
    if foreign:
        raise _unknown(section, foreign, run, version)
    for path in paths:
        _drop(values, path)
    return kind.model_validate(values)


def _inert(section: str, path: Sequence[int | str], unset: frozenset[str]) -> bool:
    """Whether nobody set a key: it, or a section around it, is listed."""
    names = [section, *map(str, path)]
    return any(".".join(names[:end]) in unset for end in range(2, len(names) + 1))


def _drop(values: Any, path: Sequence[int | str]) -> None:
    *parents, last = path
    for part in parents:
        values = values[part]
    del values[last]


def _unknown(
    section: str, paths: Sequence[Sequence[int | str]], run: str, version: str
) -> ProtocolError:
    """What another version sets; the names are its own, so they are held to a name's letters."""
    prefix = [] if section == "params" else [section]
    named = sorted({".".join([*prefix, *map(str, path)]) for path in paths})
    shown = ", ".join(n for n in named if n.isascii() and n.isprintable() and len(n) < 100)
    return ProtocolError(
        "protocol.version",
        f"Run {run}, opened with folkmoot {version[:40]}, sets what {folkmoot.__version__} does not "
        f"know: {shown[:400]}.",
        "Upgrade this side, or leave that setting out until all are upgraded.",
    )


def _damaged(run: str) -> ProtocolError:
    return ProtocolError(
        "protocol.format",
        f"{keys.RUN} of run {run} does not hold params, contract and roster of a run.",
        "Check that both sides run the same version of folkmoot, or start a new run.",
    )
