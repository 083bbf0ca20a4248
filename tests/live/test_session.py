"""The tracker's door, messages, settings that are refused, keys that the guard lets through."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.live.certificates import checked, issue, write
from folkmoot.live.messages import Place
from folkmoot.live.process import Child
from folkmoot.plan import RunContext
from pipelines.guard import checks
from pipelines.guard.request import Request
from pipelines.guard.sites import Member
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of
from site_tasks.live.job import grid
from site_tasks.live.worker import greet
from tests.guard.conftest import KnownJobs

from .conftest import SITES, params


def _pair(folder: Path, name: str) -> dict[str, str]:
    folder.mkdir()
    own, key = issue(name, "127.0.0.1", 60)
    return write(folder, {"own": own, "key": key})


def test_the_tracker_takes_its_sites_alone_and_its_port_is_free_when_it_ends(
    tmp_path: Path,
) -> None:
    tracker, site, other = (_pair(tmp_path / n, n) for n in ("coordinator", "a", "b"))
    with Child("pipelines.coordinator.live.server", tmp_path) as server:
        certificates = {**tracker, "sites": site["own"]}
        server.give({"world": 1, "port": 0, "seconds": 60, "certificates": certificates})
        limit = time.monotonic() + 60
        while "port" not in (said := server.said(0.5) or {}):
            assert time.monotonic() < limit
        port = said["port"]
        greet("127.0.0.1", port, {**site, "tracker": tracker["own"]})
        for wrong in (
            {**other, "tracker": tracker["own"]},  # a site that the tracker does not know
            {**site, "tracker": other["own"]},  # a tracker that the site does not know
        ):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                greet("127.0.0.1", port, wrong)
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            plain.settimeout(10)
            try:
                answer = plain.recv(9)
            except ConnectionError:
                answer = b""
            assert answer[3:4] != b"\x04"  # no SETTINGS: nothing is spoken in the clear
    assert server.ended
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_messages_are_bound_to_sender_run_model_and_attempt(tmp_path: Path) -> None:
    settings = params()
    context = RunContext(
        "r", settings, contract_for(settings), Roster({}), ExchangeStore(tmp_path), tmp_path
    )
    own, foreign = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    place, later = Place(context, 1, "0" * 64), Place(context, 1, "0" * 64, 1)
    place.tell("done-a", {"trees": "x"}, own)
    heard = place.hear("done-a", own.public_key())
    assert heard is not None
    assert heard["trees"] == "x"
    with pytest.raises(ProtocolError, match="signature"):
        place.hear("done-a", foreign.public_key())
    moved = tmp_path / later.key("done-a")
    moved.parent.mkdir(parents=True)
    moved.write_bytes((tmp_path / place.key("done-a")).read_bytes())
    with pytest.raises(ProtocolError, match="another run, round or attempt"):
        later.hear("done-a", own.public_key())
    # Other settings or another model are another session.
    assert Place(context, 1, "1" * 64).key("open.json") != place.key("open.json")
    changed = params("model.trees.eta=0.1")
    other = RunContext("r", changed, context.contract, Roster({}), context.store, tmp_path)
    assert Place(other, 1, "0" * 64).key("open.json") != place.key("open.json")
    for text in (None, "", "-----BEGIN CERTIFICATE-----", issue("a", "h", 1)[0] * 2):
        with pytest.raises(ProtocolError):
            checked(text, "Site a")


def test_sums_on_the_grid_are_exact() -> None:
    settings = params("aggregation.rows_limit=1000000")
    gradient, hessian = grid(contract_for(settings), settings)
    most = 3 * 1_000_000
    assert most * 2**gradient <= 2**52 < 2 * most * 2 ** (gradient + 1)
    assert most / 4 * 2**hessian <= 2**52


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"aggregation": {"protection": "masks"}}, "masks sums numbers"),
        (
            {
                "privacy": {"mechanism": "gaussian", "noise_multiplier": 1.0},
                "data": {"recipe": "breast_cancer", "scaling": "bounds"},
                "aggregation": {"weighting": "uniform"},
            },
            "no bounded sensitivity",
        ),
        ({"privacy": {"mechanism": "clip"}}, "clip"),
        ({"model": {"kind": "trees", "trees": {"tracker": {"port": 5000}}}}, "xgboost_federated"),
        (
            {
                "model": {
                    "kind": "trees",
                    "trees": {"strategy": "xgboost_federated", "sketch_exchanges": 3},
                }
            },
            "summed_histograms",
        ),
        (
            {
                "model": {
                    "kind": "trees",
                    "trees": {
                        "strategy": "xgboost_federated",
                        "rounds": 2,
                        "trees_per_round": 2,
                        "learning_rates": [0.3, 0.2, 0.1],
                    },
                }
            },
            "each of the 4 boosting steps",
        ),
    ],
)
def test_settings_that_it_cannot_honour_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        params(**sections)


def test_tracker_and_sites_of_a_round_are_one_turn() -> None:
    settings = params()
    steps = plan_of(settings, contract_for(settings)).stage("round-001/")
    live = [step.name for step in steps if step.live]
    assert live == ["round-001/track", *(f"round-001/train/{site}" for site in SITES)]
    names = [step.name for step in steps]
    assert names.index(live[-1]) - names.index(live[0]) == len(live) - 1
    for step in steps:  # nothing of the turn waits for another part of it
        if step.live:
            assert not set(step.after) & set(live)


@pytest.mark.parametrize(
    ("rule", "name", "passes"),
    [
        ("write", "hello-a", True),
        ("write", "beat-12-a", True),
        ("write", "failed-a", True),
        ("write", "done-b", False),
        ("write", "over.json", False),
        ("write", "beat-x-a", False),
        ("read", "over.json", True),
        ("read", "start.json", True),
        ("read", "hello-b", False),
    ],
)
def test_the_guard_lets_a_site_say_its_own_part_of_a_session(
    rule: str, name: str, passes: bool
) -> None:
    key = f"demo/sessions/r/round-001-{'0' * 16}/000/{name}"
    request = Request("GET", "", {}, {}, "", {"key": key}, "a", Member("0" * 64), KnownJobs())
    asked = checks.exchange_write if rule == "write" else checks.exchange_read
    refusal = asyncio.run(asked(request))  # type: ignore[arg-type]
    assert (refusal is None) == passes
