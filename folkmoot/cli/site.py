"""``folkmoot site``: make a site, show it, enrol it, give it a new dataset version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from folkmoot.cli.places import Workspace

if TYPE_CHECKING:
    from site_tasks.dataset import DatasetVersion
    from site_tasks.home import SiteHome

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""Make a site, show it, enrol it, give it a new dataset version.

    **A new site, from nothing to enrolled:**

    `folkmoot site init clinic-a --federation trial --data rows.csv --contract contract.yaml`

    `folkmoot site enrol .folkmoot/sites/clinic-a/public.toml` (at the coordinator)
    """,
)

Site = Annotated[str, typer.Argument(help="Name of the site.")]
DataFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Rows, as .parquet or .csv.")]
ContractFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Data contract (YAML); needed for .csv.")
]


@app.command()
def init(
    site: Site,
    federation: Annotated[
        list[str] | None, typer.Option(help="Federation to take part in; may be repeated.")
    ] = None,
    data: DataFile = None,
    contract: ContractFile = None,
    folder: Annotated[
        Path | None, typer.Option(help="The site's folder; <workspace>/sites/<site> by default.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(help="DVC remote: a folder or URL (s3://bucket/prefix).")
    ] = None,
    mechanism: Annotated[
        list[str] | None, typer.Option(help="Permitted privacy mechanism; all by default.")
    ] = None,
    epsilon_ceiling: Annotated[
        float | None, typer.Option(help="Most epsilon that all releases together may spend.")
    ] = None,
    minimum_rows: Annotated[
        int, typer.Option(help="Fewest training rows behind anything that leaves.")
    ] = 20,
    minimum_sites: Annotated[
        int, typer.Option(help="Fewest sites in a federation to take part.")
    ] = 2,
    locked: Annotated[
        bool,
        typer.Option(
            "--locked",
            help="Encrypt the signing key from the start, with the passphrase of `site lock`.",
        ),
    ] = False,
    workspace: Workspace = None,
) -> None:
    """Make a site: its folder, git and DVC repository, keys and permissions.

    **Examples**

    `folkmoot site init clinic-a --federation trial`

    `folkmoot site init clinic-a --federation trial --data rows.csv --contract contract.yaml`

    `folkmoot site init clinic-a --federation trial --mechanism gaussian --epsilon-ceiling 3`
    insists on differential privacy.
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.sections import parse
    from site_tasks.home import SiteHome
    from site_tasks.settings import Permissions

    values: dict[str, Any] = {
        "federations": federation or [],
        "minimum_rows": minimum_rows,
        "minimum_sites": minimum_sites,
        "epsilon_ceiling": epsilon_ceiling,
    }
    if mechanism:
        values["mechanisms"] = mechanism
    permissions = parse(Permissions, values, source="the options")
    if data is not None:
        _check_source(data, contract)
    if remote is not None and "://" not in remote:
        remote = str(Path(remote).absolute())
    root = folder or workspace_of(workspace) / "sites" / site
    home = SiteHome.create(root, site, remote=remote, permissions=permissions, locked=locked)
    typer.echo(f"Site {site} is at {home.root}.")
    if data is not None:
        version = _add(home, data, contract, "Add the dataset")
        typer.echo(f"Dataset version {version.fingerprint[:12]} is recorded.")
    else:
        typer.echo(f"Give it rows: folkmoot site refresh {site} --data FILE")
    typer.echo(f"Send {home.root / 'public.toml'} to the coordinator, who enrols the site.")


@app.command()
def show(
    site: Site,
    workspace: Workspace = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a site: folder, public keys (Ed25519 and its X25519), dataset version, permissions.

    **For example:** `folkmoot site show site-a`
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import FolkmootError
    from folkmoot.identity import public_text
    from folkmoot.identity.agreement import agreement_public
    from site_tasks.dataset import resolve
    from site_tasks.home import SiteHome

    home = SiteHome.find(site, workspace_of(workspace))
    values: dict[str, Any] = {
        "site": home.name,
        "folder": str(home.root),
        "key": public_text(home.key()),
        "agreement": agreement_public(public_text(home.key())).hex(),
        "simulated": home.settings.simulated,
    }
    try:
        version = resolve(home)
        values |= {"dataset": version.fingerprint, "revision": version.revision}
    except FolkmootError as error:
        values |= {"dataset": None, "revision": None, "fault": f"{error.message} {error.remedy}"}
    values["permissions"] = home.settings.permissions.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(values))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 1))
    permissions = values.pop("permissions")
    for name, value in [*values.items(), *((f"permits {k}", v) for k, v in permissions.items())]:
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        table.add_row(name, Text("not set" if value is None else shown))
    Console().print(table)


@app.command()
def enrol(
    public: Annotated[
        list[str], typer.Argument(help="public.toml of a site, or name of a site in the workspace.")
    ],
    replace: Annotated[
        bool, typer.Option(help="Replace a key that the roster has for the site.")
    ] = False,
    workspace: Workspace = None,
) -> None:
    """Put sites' public keys on the federation's roster; done at the coordinator.

    **Examples**

    `folkmoot site enrol clinic-a.public.toml clinic-b.public.toml`

    `folkmoot site enrol site-a` enrols a site of this workspace.
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.errors import ConfigError
    from folkmoot.identity import Roster
    from folkmoot.identity.roster import endorsed
    from pipelines.coordinator.identity import with_coordinator

    folder = workspace_of(workspace)
    path = folder / "roster.toml"
    roster = Roster.load(path)
    keys = dict(roster.keys)
    endorsements: dict[str, str] = {}
    for text in public:
        name, key, endorsement = _public(text, folder)
        new = keys.get(name, key) != key
        if new and not replace and not endorsed(name, roster.keys[name], key, endorsement):
            raise ConfigError(
                "config.invalid",
                f"The roster has another key for site {name}, which has not signed the new one.",
                "Ask the site by another way whether its key is new, then use --replace.",
                site=name,
            )
        if new and endorsement:
            endorsements[name] = endorsement
        state = "is enrolled" if keys.get(name) != key else "was enrolled already"
        keys[name] = key
        typer.echo(f"Site {name} {state}.")
    after = roster.amended(keys, with_coordinator(roster, folder).coordinator, endorsements)
    after.save(path)
    missing = after.unsigned()
    if missing:
        typer.echo(
            f"Roster version {after.version} is a draft: each member runs `folkmoot roster sign` on "
            f"{path} and, when all have signed, `folkmoot roster accept`. "
            f"Missing: {', '.join(missing)}."
        )


@app.command()
def rotate(site: Site, workspace: Workspace = None) -> None:
    """Give a site a new signing key; the ledger and public.toml are signed over to it.

    Then send public.toml to whoever keeps the roster: the site takes part again once every member has
    signed and accepted the next version.  The former key is destroyed.

    **For example:** `folkmoot site rotate clinic-a`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks.home import SiteHome
    from site_tasks.rotation import rotate_key

    home = SiteHome.find(site, workspace_of(workspace))
    rotate_key(home)
    typer.echo(f"Site {site} has a new key. Send {home.root / 'public.toml'} to be enrolled.")


@app.command()
def lock(site: Site, workspace: Workspace = None) -> None:
    """Encrypt the site's signing key with a passphrase, which every later step then needs.

    The passphrase comes from FOLKMOOT_PASSPHRASE, or from the command in FOLKMOOT_PASSPHRASE_COMMAND.

    **For example:** `FOLKMOOT_PASSPHRASE_COMMAND="pass show clinic-a" folkmoot site lock clinic-a`
    """
    from folkmoot.cli.places import workspace_of
    from folkmoot.identity.keys import lock_key
    from site_tasks.home import SiteHome

    home = SiteHome.find(site, workspace_of(workspace))
    lock_key(home.private / "signing.key")
    typer.echo(f"The signing key of site {site} needs its passphrase from now on.")


@app.command()
def refresh(
    site: Site,
    data: DataFile = None,
    contract: ContractFile = None,
    message: Annotated[
        str, typer.Option("--message", "-m", help="Subject of the commit in the site's repository.")
    ] = "Refresh the dataset",
    workspace: Workspace = None,
) -> None:
    """Record a new dataset version of a site: `dvc add`, `git commit`, `dvc push`.

    Without --data, the file that lies at the dataset's path is recorded as it is now.

    **Examples**

    `folkmoot site refresh clinic-a --data march.parquet -m "Add March"`

    `folkmoot site refresh clinic-a --data march.csv --contract contract.yaml`
    """
    from folkmoot.cli.places import workspace_of
    from site_tasks.dataset import record
    from site_tasks.home import SiteHome

    home = SiteHome.find(site, workspace_of(workspace))
    if data is None:
        version = record(home, message)
    else:
        _check_source(data, contract)
        version = _add(home, data, contract, message)
    revision = (version.revision or "")[:12]
    typer.echo(f"Site {site}: dataset version {version.fingerprint[:12]}, revision {revision}.")


def _check_source(data: Path, contract: Path | None) -> None:
    """Faults of the options are told before anything is made."""
    from folkmoot.contract import load_contract
    from folkmoot.errors import ConfigError
    from site_tasks.readers import kind_of

    kind = kind_of(data)
    if contract is not None:
        load_contract(contract)
    elif kind == "csv":
        raise ConfigError(
            "config.invalid",
            "A CSV file needs the contract: it says which columns are text and which numbers.",
            "Name it with --contract FILE.",
        )


def _add(home: SiteHome, data: Path, contract: Path | None, message: str) -> DatasetVersion:
    from folkmoot.contract import load_contract
    from site_tasks.dataset import add
    from site_tasks.readers import csv_to_parquet, kind_of

    if contract is None or kind_of(data) == "parquet":
        return add(home, data, message)
    target = home.work / "converted.parquet"
    try:
        csv_to_parquet(data, target, load_contract(contract))
        return add(home, target, message, move=True)
    finally:
        target.unlink(missing_ok=True)


def _public(text: str, workspace: Path) -> tuple[str, str, str]:
    """Name, key and endorsement (or nothing) of a ``public.toml``."""
    import re
    import tomllib

    from folkmoot.errors import ConfigError

    path = Path(text)
    if path.suffix != ".toml":
        path = workspace / "sites" / text / "public.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        name, key = str(values["name"]), str(values["key"])
        endorsement = str(values.get("endorsement", ""))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError):
        name = key = endorsement = ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) or not re.fullmatch("[0-9a-f]{64}", key):
        raise ConfigError(
            "config.invalid",
            f"{path} is not the public.toml of a site.",
            "Ask the site for the file that `folkmoot site init` made, or name a site here.",
        )
    return name, key, endorsement
