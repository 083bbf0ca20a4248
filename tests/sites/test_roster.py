"""The roster that all members sign: joining, leaving, rotation, and what a coordinator may try."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import FolkmootError, PrivacyError, ProtocolError
from folkmoot.identity import Roster, public_text
from folkmoot.identity.roster import endorse
from folkmoot.params import Params, parse_params
from pipelines.hosts import embedded
from pipelines.simulation import ensure_sites
from site_tasks.health import check_site
from site_tasks.home import SiteHome
from site_tasks.membership import accept, accepted
from site_tasks.release import open_ledger
from site_tasks.rotation import rotate_key

SITES = ["site-a", "site-b", "site-c"]
Workspace = Callable[..., Path]


def params_of(sites: list[str] | None = None, rounds: int = 2) -> Params:
    return parse_params(
        {"federation": {"name": "demo", "sites": sites or SITES}, "tracking": {"enabled": False}},
        [f"model.linear.rounds={rounds}", "data.recipe=synthetic", "data.rows=300"],
    )


def homes_in(workspace: Path, names: list[str] = SITES) -> dict[str, SiteHome]:
    return {name: SiteHome.find(name, workspace) for name in names}


def sign_all(roster: Roster, homes: dict[str, SiteHome]) -> Roster:
    for name in roster.keys:
        roster = roster.signed(name, homes[name].key())
    return roster


def folkmoot(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if isinstance(result.exception, FolkmootError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_simulation_is_signed_and_accepted_by_all(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    roster = Roster.load(workspace / "roster.toml")
    assert roster.unsigned() == ()
    for home in homes_in(workspace).values():
        assert accepted(home) == roster
        assert stat.S_IMODE((home.private / "roster.json").stat().st_mode) == 0o600
    assert embedded.run(params_of(), workspace=workspace)["rounds"] == 2


def test_a_key_exchanged_by_the_coordinator_is_refused_by_every_site(
    workspace_of: Workspace,
) -> None:
    workspace = workspace_of(params_of())
    path = workspace / "roster.toml"
    roster = Roster.load(path)
    stranger = Ed25519PrivateKey.generate()
    keys = {**roster.keys, "site-c": public_text(stranger)}
    # It may even sign for the member it replaces: the others' signatures do not cover the key.
    replace(roster, keys=keys).signed("site-c", stranger).save(path)
    from pipelines.coordinator.open_round import open_run
    from pipelines.hosts.execute import execute, store_of
    from pipelines.hosts.walk import contract_for, roster_for
    from pipelines.plans import plan_of

    params = params_of()
    contract = contract_for(params)
    store = store_of(params, workspace)
    context = open_run(params, contract, roster_for(workspace), "r", store, workspace)
    for step in plan_of(params, contract).stage("prepare/"):
        if step.name.startswith("prepare/encode"):
            with pytest.raises(ProtocolError, match="another key for site-c") as caught:
                execute(step, context)
            assert caught.value.code == "protocol.roster"
            assert caught.value.site == step.place
    for site in SITES:
        assert not open_ledger(SiteHome.find(site, workspace)).entries()[1:]


def test_no_version_counts_before_everybody_signed_it(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    homes = homes_in(workspace)
    before = Roster.load(workspace / "roster.toml")
    draft = before.amended({s: before.keys[s] for s in SITES[:2]}, before.coordinator)
    assert draft.version == before.version + 1
    assert draft.previous == before.digest()
    half = draft.signed("site-a", homes["site-a"].key())
    assert half.unsigned() == ("site-b",)
    with pytest.raises(ProtocolError, match="lacks the signature of site-b"):
        accept(homes["site-a"], half)
    forged = replace(half, signatures={**half.signatures, "site-b": half.signatures["site-a"]})
    with pytest.raises(ProtocolError, match="site-b"):
        accept(homes["site-a"], forged)
    whole = sign_all(draft, homes)
    assert accept(homes["site-a"], whole)
    assert not accept(homes["site-a"], whole), "a second time changes nothing"
    with pytest.raises(ProtocolError, match="not newer"):
        accept(homes["site-a"], before)
    with pytest.raises(ProtocolError, match="own key"):
        accept(homes["site-c"], whole)


def test_another_history_is_refused(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    homes = homes_in(workspace)
    before = Roster.load(workspace / "roster.toml")
    other = sign_all(replace(before, version=before.version + 1, previous="00" * 32), homes)
    with pytest.raises(ProtocolError, match="does not follow"):
        accept(homes["site-a"], other)


def test_a_revoked_site_is_out_of_every_run(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    path = workspace / "roster.toml"
    old = path.read_bytes()
    assert "draft without site-c" in folkmoot(
        "roster", "remove", "site-c", "--workspace", workspace
    )
    for site in SITES[:2]:
        folkmoot("roster", "sign", site, "--workspace", workspace)
    for site in SITES[:2]:
        folkmoot("roster", "accept", site, "--workspace", workspace)
    assert "signed by all members" in folkmoot("roster", "show", "--workspace", workspace)
    path.write_bytes(old)  # the coordinator brings the old roster back
    context = _opened(params_of(), workspace)
    for site in SITES[:2]:
        with pytest.raises(ProtocolError, match="does not list site-c"):
            _release(context, site)


def test_a_distrusted_site_is_refused_at_once(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    home = SiteHome.find("site-a", workspace)
    text = (home.root / "site.toml").read_text()
    (home.root / "site.toml").write_text(text.replace("distrusted = []", 'distrusted = ["site-c"]'))
    with pytest.raises(PrivacyError, match=r"permissions\.distrusted .* names site-c"):
        _release(_opened(params_of(), workspace), "site-a")


def test_a_rotated_key_is_signed_over_everywhere(workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    embedded.run(params_of(), workspace=workspace)
    home = SiteHome.find("site-b", workspace)
    former, entries = public_text(home.key()), len(open_ledger(home).entries())
    new = rotate_key(home)
    assert new != former == Roster.load(workspace / "roster.toml").keys["site-b"]
    ledger = open_ledger(SiteHome.find("site-b", workspace))
    assert ledger.verify() == entries + 1, "one entry signs the new key with the former one"
    with pytest.raises(ProtocolError, match="own key"):
        accept(home, Roster.load(workspace / "roster.toml"))
    printed = folkmoot("site", "enrol", "site-b", "--workspace", workspace)
    assert "version 2 is a draft" in printed
    seen = folkmoot("roster", "sign", "site-a", "--workspace", workspace)
    assert "site-b has a new key, signed with its former key" in seen
    for site in SITES[1:]:
        folkmoot("roster", "sign", site, "--workspace", workspace)
    for site in SITES:
        folkmoot("roster", "accept", site, "--workspace", workspace)
        findings = list(check_site(site, workspace, Roster.load(workspace / "roster.toml")))
        assert not [f for f in findings if f.state == "fault" and "roster" in f.what], findings
    result = embedded.run(params_of(rounds=3), workspace=workspace)
    assert set(result["participants"]) == set(SITES)
    assert open_ledger(SiteHome.find("site-b", workspace)).verify() > entries + 1


@pytest.mark.parametrize("point", ["signing.key", "public.toml"])
def test_a_rotation_that_was_interrupted_goes_on(
    point: str, workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    workspace = workspace_of(params_of())
    home = SiteHome.find("site-b", workspace)
    entries = len(open_ledger(home).entries())
    real = os.replace

    def die(source: object, target: object) -> None:
        if Path(str(target)).name == point:
            raise KeyboardInterrupt
        real(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            rotate_key(home)
    waiting = (home.private / "signing.next").read_bytes()
    rotate_key(SiteHome.find("site-b", workspace))
    assert (home.private / "signing.key").read_bytes() == waiting
    assert open_ledger(SiteHome.find("site-b", workspace)).verify() == entries + 1


def test_a_new_key_without_the_former_ones_signature_needs_the_stewards_word(
    workspace_of: Workspace,
) -> None:
    workspace = workspace_of(params_of())
    before = Roster.load(workspace / "roster.toml")
    stranger = Ed25519PrivateKey.generate()
    public = workspace / "forged.toml"
    public.write_text(f'name = "site-b"\nkey = "{public_text(stranger)}"\n')
    with pytest.raises(FolkmootError, match="has not signed the new one"):
        folkmoot("site", "enrol", public, "--workspace", workspace)
    assert Roster.load(workspace / "roster.toml") == before
    folkmoot("site", "enrol", public, "--replace", "--workspace", workspace)
    seen = folkmoot("roster", "sign", "site-a", "--workspace", workspace)
    assert "site-b has a new key, NOT signed with its former key" in seen


def test_an_endorsement_is_for_one_site_and_key_alone() -> None:
    former, new, other = (Ed25519PrivateKey.generate() for _ in range(3))
    roster = Roster({"a": public_text(former), "b": public_text(former)})
    proof = endorse("a", former, new)
    for site, key, said in (("a", new, "signed"), ("b", new, "NOT"), ("a", other, "NOT")):
        after = roster.amended({**roster.keys, site: public_text(key)}, None, {site: proof})
        assert after.changes(roster) == [f"{site} has a new key, {_how(said)}"]


def test_sites_join_and_leave_by_name() -> None:
    one, two = (public_text(Ed25519PrivateKey.generate()) for _ in range(2))
    before = Roster({"a": one}, coordinator=one)
    after = Roster({"b": two}, coordinator=two)
    assert after.changes(before) == ["b joins", "a leaves", "the coordinator has a new key"]


def test_another_recipes_sites_join_a_workspace(workspace_of: Workspace) -> None:
    """Two simulated federations in one workspace: every site accepts the roster of all."""
    workspace = workspace_of(params_of())
    ensure_sites(params_of(["site-c", "site-d"]), workspace)
    roster = Roster.load(workspace / "roster.toml")
    assert roster.unsigned() == ()
    assert embedded.run(params_of(["site-c", "site-d"]), workspace=workspace)["rounds"] == 2


def _opened(params: Params, workspace: Path):  # type: ignore[no-untyped-def]
    from pipelines.coordinator.open_round import open_run
    from pipelines.hosts.execute import store_of
    from pipelines.hosts.walk import contract_for, roster_for

    store = store_of(params, workspace)
    return open_run(params, contract_for(params), roster_for(workspace), "r", store, workspace)


def _release(context, site: str) -> None:  # type: ignore[no-untyped-def]
    from pipelines.hosts.execute import execute
    from pipelines.plans import plan_of

    for step in plan_of(context.params, context.contract).stage("prepare/"):
        if step.place == site:
            execute(step, context)


def _how(said: str) -> str:
    return f"{said} signed with its former key" if said == "NOT" else "signed with its former key"
