"""The release door: exactly once, as permitted, and written down."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import FolkmootError, PrivacyError, ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Gaussian
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate
from site_tasks.release import check_releases, open_ledger

from .conftest import GAUSSIAN, Site


def kinds(site: Site) -> list[str]:
    return [entry.kind for entry in open_ledger(site.home).entries()]


def test_an_update_without_noise_is_published_and_said_to_be_exact(site: Site) -> None:
    context = site.context()
    ref = site.release(context)
    update = site.opened(context)
    assert update.digest == ref.digest
    np.testing.assert_array_equal(update.parts["update"].arrays["delta"], site.delta)
    receipt = update.receipt
    assert receipt["mechanism"] == "none"
    assert receipt["private"] is False
    assert set(receipt["unaccounted"]) == {"update", "evaluation"}
    assert kinds(site) == ["open", "commit"]
    assert update.meta["dataset"] == "f" * 64


def test_a_noisy_update_states_what_it_cost(site: Site) -> None:
    context = site.context(*GAUSSIAN)
    site.release(context)
    receipt = site.opened(context).receipt
    assert receipt["private"] is True
    assert (receipt["unit"], receipt["relation"], receipt["delta"]) == (
        "record",
        "replace-one",
        1e-5,
    )
    assert (receipt["clip_norm"], receipt["noise_multiplier"], receipt["sensitivity"]) == (1, 2, 2)
    assert receipt["unaccounted"] == {}
    assert kinds(site) == ["open", "reserve", "commit"]
    spent, _ = open_ledger(site.home).spent(1e-5)
    assert spent == epsilon([receipt["events"]["update"]], 1e-5)[0] > 0


def test_clipping_alone_is_not_private(site: Site) -> None:
    context = site.context("privacy.mechanism=clip", "model.linear.strategy=fedavg")
    site.release(context)
    update = site.opened(context)
    assert update.receipt["private"] is False
    assert np.linalg.norm(update.parts["update"].arrays["delta"]) <= 1.0


@pytest.mark.parametrize("overrides", [(), GAUSSIAN])
def test_a_retry_publishes_the_same_bytes_and_costs_nothing(
    site: Site, overrides: tuple[str, ...]
) -> None:
    context = site.context(*overrides)
    first = site.release(context)
    entries = kinds(site)
    shutil.rmtree(site.workspace / "exchange")
    site.store = ExchangeStore(site.workspace / "exchange")
    again = site.release(site.context(*overrides))
    assert again == first
    assert site.made == 1
    assert kinds(site) == entries


def test_other_inputs_are_another_release(site: Site) -> None:
    site.release(site.context(*GAUSSIAN))
    site.release(site.context(*GAUSSIAN, run="r2"))
    site.release(site.context(*GAUSSIAN, run="r3"), inputs=["b" * 64])
    site.release(site.context(*GAUSSIAN, run="r4"), round=2)
    ledger = open_ledger(site.home)
    assert len({entry.release_id for entry in ledger.entries()} - {""}) == 4
    assert ledger.spent(1e-5)[0] == epsilon({_event(site): 4}, 1e-5)[0]


def test_changed_privacy_settings_never_find_bytes_made_under_others(site: Site) -> None:
    """A run's name used again with less noise: conflict at the store, not a false receipt."""
    site.release(site.context(*GAUSSIAN))
    with pytest.raises(ProtocolError) as caught:
        site.release(site.context(*GAUSSIAN, "privacy.noise_multiplier=9.0"))
    assert caught.value.code == "protocol.conflict"


def test_more_rounds_leave_earlier_releases_as_they_were(site: Site) -> None:
    first = site.release(site.context(*GAUSSIAN, "model.linear.rounds=5"))
    assert site.release(site.context(*GAUSSIAN, "model.linear.rounds=6")) == first


def test_the_ceiling_stops_before_anything_is_computed(site: Site) -> None:
    context = site.context(*GAUSSIAN, "model.linear.rounds=1")
    one, _ = epsilon([_event(site)], 1e-5)
    site.permit(epsilon_ceiling=one * 1.01)
    site.release(context)
    before = open_ledger(site.home).head()
    with pytest.raises(PrivacyError) as caught:
        site.release(context, round=2)
    assert caught.value.code == "privacy.ceiling"
    assert caught.value.site == "site-a"
    assert site.made == 1
    assert open_ledger(site.home).head() == before
    assert site.store.find(context.key(keys.update(2, "site-a"))) is None


def test_the_stricter_delta_counts(site: Site) -> None:
    """A plan with a generous delta does not widen the site's ceiling."""
    at_site, _ = epsilon([_event(site)], 1e-9)
    at_plan, _ = epsilon([_event(site)], 1e-3)
    assert at_plan < at_site
    site.permit(epsilon_ceiling=(at_plan + at_site) / 2, delta=1e-9)
    with pytest.raises(PrivacyError) as caught:
        site.release(site.context(*GAUSSIAN, "privacy.delta=0.001"))
    assert caught.value.code == "privacy.ceiling"


@pytest.mark.parametrize(
    ("permissions", "overrides", "code"),
    [
        ({"federations": ["other"]}, (), "privacy.not-permitted"),
        ({"federations": []}, (), "privacy.not-permitted"),
        ({"kinds": ["trees"]}, (), "privacy.not-permitted"),
        ({"mechanisms": ["gaussian"]}, (), "privacy.not-permitted"),
        ({"columns": ["z"]}, (), "privacy.not-permitted"),
        ({"minimum_sites": 5}, (), "privacy.not-permitted"),
        ({"epsilon_ceiling": 1.0}, (), "privacy.not-permitted"),
        ({}, (*GAUSSIAN, "privacy.seeded=true"), "privacy.seeded"),
    ],
)
def test_what_site_toml_does_not_permit_does_not_leave(
    site: Site, permissions: dict[str, Any], overrides: tuple[str, ...], code: str
) -> None:
    site.permit(**permissions)
    with pytest.raises(PrivacyError) as caught:
        site.release(site.context(*overrides))
    assert caught.value.code == code
    assert caught.value.site == "site-a"
    assert site.made == 0
    assert not site.home.ledger_path.exists()


def test_a_withdrawn_permission_holds_for_stored_bytes_too(site: Site) -> None:
    context = site.context(*GAUSSIAN)
    site.release(context)
    shutil.rmtree(site.workspace / "exchange")
    site.permit(mechanisms=["none"])
    with pytest.raises(PrivacyError):
        site.release(context)
    assert site.store.find(context.key(keys.update(1, "site-a"))) is None


def test_seeded_noise_is_marked_not_private(site: Site) -> None:
    site.permit(seeded=True)
    context = site.context(*GAUSSIAN, "privacy.seeded=true")
    site.release(context)
    receipt = site.opened(context).receipt
    assert (receipt["private"], receipt["seeded"]) == (False, True)


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"evaluation": Gaussian(2.0, 2.0)},
        {"update": Gaussian(4.0, 2.0)},
        {"update": Gaussian(2.0, 2.0), "evaluation": Gaussian(2.0, 2.0)},
    ],
)
def test_parts_of_another_cost_than_was_charged_do_not_leave(
    site: Site, costs: dict[str, Any]
) -> None:
    """Statistics cost nothing; an update in their place would be released without a charge."""
    context = site.context(*GAUSSIAN)
    assert charge(context.params.privacy) == {"update": Gaussian(2.0, 2.0)}
    with pytest.raises(PrivacyError) as caught:
        site.release(context, key=keys.statistics("site-a"), costs=costs)
    assert caught.value.code == "privacy.order"
    assert site.store.find(context.key(keys.statistics("site-a"))) is None
    assert kinds(site) == ["open", *["reserve"] * bool(costs)]  # and what was charged stays so


def test_a_failed_computation_releases_nothing_and_stays_charged(site: Site) -> None:
    context = site.context(*GAUSSIAN)

    def broken() -> dict[str, Any]:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        site.release(context, make=broken)
    assert kinds(site) == ["open", "reserve"]
    site.release(context)
    attempts = [entry.attempt for entry in open_ledger(site.home).entries()]
    assert attempts == [0, 1, 1, 2, 2]
    assert kinds(site) == ["open", "reserve", "abandon", "reserve", "commit"]


def test_stored_bytes_that_were_changed_are_not_published(site: Site) -> None:
    context = site.context(*GAUSSIAN)
    site.release(context)
    (path,) = (p for p in site.home.releases.iterdir() if not p.name.startswith("."))
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.raises(PrivacyError, match="changed after its commit"):
        check_releases(site.home, open_ledger(site.home))
    before = kinds(site)
    site.release(context)  # finds the true bytes published, and draws nothing anew
    assert (site.made, kinds(site)) == (1, before)
    assert check_releases(site.home, open_ledger(site.home)) == 1


def test_stored_bytes_that_are_nowhere_are_made_and_paid_anew(site: Site) -> None:
    context = site.context(*GAUSSIAN)
    site.release(context)
    (path,) = (p for p in site.home.releases.iterdir() if not p.name.startswith("."))
    path.unlink()
    shutil.rmtree(site.workspace / "exchange")
    site.release(context)
    assert kinds(site) == ["open", "reserve", "commit", "reserve", "commit"]


def test_a_ledger_that_is_gone_stops_every_release(site: Site) -> None:
    site.release(site.context(*GAUSSIAN))
    for path in site.home.private.glob("ledger.sqlite*"):
        path.unlink()
    with pytest.raises(PrivacyError) as caught:
        site.release(site.context(*GAUSSIAN), round=2)
    assert caught.value.code == "privacy.ledger"


def test_an_older_copy_of_the_ledger_is_found_out(site: Site) -> None:
    context = site.context(*GAUSSIAN)
    site.release(context)
    open_ledger(site.home, context.cache).close()
    older = site.home.ledger_path.read_bytes()
    site.release(context, round=2)
    ledger = open_ledger(site.home, context.cache)
    assert check_releases(site.home, ledger) == 2
    ledger.close()
    for path in site.home.private.glob("ledger.sqlite*"):
        path.unlink()
    site.home.ledger_path.write_bytes(older)
    rewound = open_ledger(site.home)
    with pytest.raises(PrivacyError, match="rewound"):
        rewound.verify()  # the copy itself holds: the note of the last entry tells
    with pytest.raises(PrivacyError, match="rewound"):
        check_releases(site.home, rewound)


def _rewind(site: Site, older: bytes) -> None:
    for path in site.home.private.glob("ledger.sqlite*"):
        path.unlink()
    site.home.ledger_path.write_bytes(older)


@pytest.mark.parametrize("round", [1, 2, 3])
def test_a_rewound_ledger_takes_nothing_more(site: Site, round: int) -> None:
    """Neither anew nor by publishing what was stored: that would launder the lost entries."""
    context = site.context(*GAUSSIAN)
    site.release(context)
    open_ledger(site.home, context.cache).close()
    older = site.home.ledger_path.read_bytes()
    site.release(context, round=2)
    open_ledger(site.home, context.cache).close()
    _rewind(site, older)
    made = site.made
    with pytest.raises(PrivacyError, match="rewound") as caught:
        site.release(site.context(*GAUSSIAN), round=round)
    assert caught.value.code == "privacy.ledger"
    assert site.made == made
    with pytest.raises(PrivacyError, match="rewound"):
        check_releases(site.home, open_ledger(site.home))


def test_stored_bytes_without_their_reservation_are_not_published(site: Site) -> None:
    """Even where the note of the last entry went with the ledger."""
    context = site.context(*GAUSSIAN)
    ledger = open_ledger(site.home, context.cache)
    ledger.close()
    older = site.home.ledger_path.read_bytes()
    site.release(context)
    ledger.close()
    _rewind(site, older)
    ledger.head_path.unlink()
    with pytest.raises(PrivacyError, match="rewound"):
        site.release(site.context(*GAUSSIAN))


def test_the_ledger_holds_nothing_of_the_data(site: Site) -> None:
    site.delta = np.full((1, 6), 123.4375)
    site.release(site.context(*GAUSSIAN))
    text = json.dumps([entry.content for entry in open_ledger(site.home).entries()])
    assert "123.4375" not in text


def test_a_diverged_update_does_not_leave(site: Site) -> None:
    site.delta = np.full((1, 6), math.nan)
    with pytest.raises(FolkmootError) as caught:
        site.release(site.context())
    assert caught.value.code == "round.diverged"
    assert kinds(site) == ["open"]


def _race(site: Site, barrier: Any, results: Any) -> None:
    context = site.context(*GAUSSIAN)
    barrier.wait()
    results.put(site.release(context).digest)


def test_two_processes_at_one_release_draw_once(site: Site) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(4), fork.Queue()
    workers = [fork.Process(target=_race, args=(site, barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    digests = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(digests) == 1
    assert kinds(site) == ["open", "reserve", "commit"]


def _event(site: Site) -> Any:
    (event,) = charge(site.context(*GAUSSIAN).params.privacy).values()
    return event


def test_release_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, site_tasks.release, site_tasks.permissions\n"
        "heavy = {'pandas', 'sklearn', 'scipy', 'pyarrow', 'dp_accounting', 'mlflow', 'dvc'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_update_is_signed_by_its_site(site: Site) -> None:
    context = site.context()
    site.release(context)
    data = bytearray(site.store.get(context.key(keys.update(1, "site-a"))))
    data[-1] ^= 1
    from folkmoot.updates import open_released

    with pytest.raises(ProtocolError) as caught:
        open_released(bytes(data), context.roster, {"site": "site-a"})
    assert caught.value.code == "protocol.signature"
    assert isinstance(site.opened(context).parts["update"], LinearUpdate)
