"""``folkmoot roster``: whose keys count; every change is signed by every member."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from folkmoot.cli.places import Workspace

if TYPE_CHECKING:
    from folkmoot.identity import Roster

app = typer.Typer(
    name="roster",
    help="Show, sign and accept the roster of a federation.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Site = Annotated[str, typer.Argument(help="Name of the site whose steward you are.")]
File = Annotated[
    Path | None, typer.Option("--roster", help="The roster; the workspace's own by default.")
]


@app.command()
def show(roster: File = None, workspace: Workspace = None) -> None:
    """Show version, keys and who has signed.

    **For example:** `folkmoot roster show --roster roster.toml`
    """
    from rich.console import Console
    from rich.table import Table

    from folkmoot.identity.agreement import agreement_public

    _, found = _load(roster, workspace)
    unsigned = set(found.unsigned())
    state = f"{len(unsigned)} signatures are missing" if unsigned else "signed by all members"
    title = f"Roster version {found.version}: {state}"
    table = Table("site", "Ed25519", "X25519", "signed", title=title)
    for site, key in sorted(found.keys.items()):
        other = agreement_public(key).hex()
        table.add_row(site, f"{key[:16]}…", f"{other[:16]}…", "no" if site in unsigned else "yes")
    Console().print(table)
    typer.echo(f"Digest {found.digest()}")


@app.command()
def sign(site: Site, roster: File = None, workspace: Workspace = None) -> None:
    """Sign the roster as a member, once you have compared the keys with the other stewards.

    Prints what changes against the roster that the site accepted last.  Send the file on: when all
    members have signed it, each accepts it.

    **For example:** `folkmoot roster sign clinic-a --roster roster.toml`
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import ConfigError
    from folkmoot.identity import public_text
    from site_tasks.home import SiteHome
    from site_tasks.membership import accepted

    path, found = _load(roster, workspace)
    home = SiteHome.find(site, workspace_of(workspace))
    if found.keys.get(site) != public_text(home.key()):
        raise ConfigError(
            "config.invalid",
            f"{path} does not list site {site} with its own key.",
            "Send the site's public.toml to whoever keeps the roster: `folkmoot site enrol`.",
            site=site,
        )
    for line in found.changes(accepted(home)):
        typer.echo(f"- {line}")
    after = found.signed(site, home.key())
    after.save(path)
    missing = after.unsigned()
    rest = f"still to sign: {', '.join(missing)}" if missing else "all members have signed"
    typer.echo(f"Site {site} signed roster version {after.version}; {rest}.")


@app.command()
def accept(site: Site, roster: File = None, workspace: Workspace = None) -> None:
    """Take a complete roster as the one that counts at a site.

    **For example:** `folkmoot roster accept clinic-a --roster roster.toml`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks import membership
    from site_tasks.home import SiteHome

    _, found = _load(roster, workspace)
    new = membership.accept(SiteHome.find(site, workspace_of(workspace)), found)
    state = "counts from now on" if new else "was accepted already"
    typer.echo(f"Site {site}: roster version {found.version} {state}.")


@app.command()
def remove(
    site: Annotated[str, typer.Argument(help="Site that leaves, or whose key is revoked.")],
    roster: File = None,
    workspace: Workspace = None,
) -> None:
    """Draft the next version without a site; the others sign and accept it.

    Until they have, a steward can refuse the site at once with permissions.distrusted in site.toml.

    **For example:** `folkmoot roster remove clinic-d`
    """
    from folkmoot.errors import ConfigError

    path, found = _load(roster, workspace)
    if site not in found.keys:
        raise ConfigError(
            "config.invalid",
            f"{path} does not list site {site}.",
            f"It lists {', '.join(sorted(found.keys)) or 'nobody'}.",
            site=site,
        )
    keys = {name: key for name, key in found.keys.items() if name != site}
    after = found.amended(keys, found.coordinator)
    after.save(path)
    typer.echo(f"Roster version {after.version} is a draft without {site}: let the others sign it.")


def _load(path: Path | None, workspace: Path | None) -> tuple[Path, Roster]:
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import ConfigError
    from folkmoot.identity import Roster

    file = path or workspace_of(workspace) / "roster.toml"
    if not file.exists():
        raise ConfigError(
            "config.missing-file",
            f"{file} does not exist.",
            "Name the file with --roster, or enrol sites first: `folkmoot site enrol`.",
        )
    return file, Roster.load(file)
