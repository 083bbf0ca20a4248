"""A site's own folder: settings, keys, dataset, ledger, log.

::

    <root>/            mode 0700; the site's own git and DVC repository
        site.toml      permissions (0600, outside git)      public.toml    name and public key
        data/dataset.parquet (+ .dvc)                       the dataset, versioned by DVC
        private/       0700, outside git and DVC: secret.key, signing.key, ledger.sqlite,
                       releases/, work/, site.log
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError, FolkmootError
from folkmoot.identity import load_key, new_key, public_text
from site_tasks.git import git
from site_tasks.settings import Permissions, SiteSettings, load_settings, save_settings

__all__ = ["SiteHome"]

_IGNORED = "/site.toml\n/site.part\n/private/\n"
#: Homes that were found, by absolute folder: every step of a site asks for its own.
_found: dict[str, SiteHome] = {}


class SiteHome:
    """A site's folder.

    Parameters
    ----------
    root : Path
        The folder; it must hold ``site.toml``.

    Raises
    ------
    ConfigError
        Where ``site.toml`` is missing or faulty.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._file = self.root / "site.toml"
        self.settings: SiteSettings = load_settings(self._file)
        self.name: str = self.settings.name

    @staticmethod
    def find(site: str, workspace: Path | str) -> SiteHome:
        """Folder of a site on this machine.

        The folder of ``FOLKMOOT_SITE_HOME`` (one, or several as in ``PATH``) whose ``site.toml``
        names the site, else ``<workspace>/sites/<site>``.

        Raises
        ------
        ConfigError
            Where there is none, or the folder belongs to another site.
        """
        for own in filter(None, os.environ.get("FOLKMOOT_SITE_HOME", "").split(os.pathsep)):
            home = _at(own)
            if home.name == site:
                return home
        root = os.path.join(workspace, "sites", site)
        try:
            home = _at(root)
        except ConfigError as error:
            if error.code != "config.missing-file":
                raise
            raise ConfigError(
                "config.missing-file",
                f"There is no folder of site {site}: {root} has no site.toml.",
                f"Make it with `folkmoot site init {site}`, or name it in FOLKMOOT_SITE_HOME.",
                site=site,
            ) from None
        if home.name != site:
            raise ConfigError(
                "config.invalid",
                f"{os.path.join(root, 'site.toml')} names another site than {site}.",
                "Correct its key name, or rename the folder.",
                site=site,
            )
        return home

    @staticmethod
    def create(
        root: Path | str,
        name: str,
        *,
        remote: str | None = None,
        federations: Sequence[str] = (),
        permissions: Permissions | None = None,
        simulated: bool = False,
        locked: bool = False,
    ) -> SiteHome:
        """Make a site: git and DVC repository, DVC remote, keys, ``site.toml``.

        A creation that was interrupted is finished; keys are never made twice.

        Parameters
        ----------
        root : Path
            Folder to make.
        name : str
            Name of the site.
        remote : str, optional
            URL or folder of the DVC remote; a folder of the workspace by default.
        federations : sequence of str
            Federations that the site takes part in.
        permissions : Permissions, optional
            All permissions; ``federations`` are added to them.
        simulated : bool
            Whether a recipe may replace the dataset.
        locked : bool
            Whether the signing key is encrypted from the start (:mod:`folkmoot.identity.keys`).

        Raises
        ------
        ConfigError
            Where the folder already is a site, or name or permissions are faulty;
            ``config.passphrase`` where the key is to be encrypted and no passphrase is given.
        """
        from site_tasks.storage import init_repository

        root = Path(root).absolute()
        if (root / "site.toml").exists():
            raise ConfigError(
                "config.invalid",
                f"{root} already is the folder of a site.",
                "Change its site.toml, or choose another folder.",
            )
        wanted = permissions or Permissions()
        settings = _settings(name, sorted({*wanted.federations, *federations}), wanted, simulated)
        for folder in ("", "private", "private/releases", "private/work"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder).chmod(0o700)
        (root / settings.dataset.path).parent.mkdir(parents=True, exist_ok=True)
        key = root / "private" / "signing.key"
        signing = load_key(key) if key.exists() else new_key(key, encrypted=locked)
        _new_secret(root / "private" / "secret.key")
        public = tomli_w.dumps({"name": name, "key": public_text(signing)})
        (root / "public.toml").write_text(public, encoding="utf-8")
        (root / ".gitignore").write_text(_IGNORED, encoding="utf-8")
        git(root, "init", "--quiet", "--initial-branch=main")
        init_repository(root, remote or _remote(root))
        git(root, "add", ".gitignore", "public.toml", ".dvc", ".dvcignore")
        git(root, "commit", "--quiet", "--allow-empty", "-m", f"Make site {name}")
        save_settings(settings, root / "site.toml")  # last: only now it is a site
        return SiteHome(root)

    @property
    def dataset(self) -> Path:
        """The dataset in the working copy (Parquet)."""
        return self.root / self.settings.dataset.path

    @cached_property
    def private(self) -> Path:
        """Folder that neither git nor DVC sees."""
        return self.root / "private"

    @cached_property
    def ledger_path(self) -> Path:
        """SQLite file of the privacy ledger."""
        return self.private / "ledger.sqlite"

    @cached_property
    def _key(self) -> Path:
        return self.private / "signing.key"

    @cached_property
    def roster(self) -> Path:
        """The roster that the site accepted (``site_tasks.membership``)."""
        return self.private / "roster.json"

    @cached_property
    def releases(self) -> Path:
        """Folder of the bytes that were released."""
        return self.private / "releases"

    @cached_property
    def work(self) -> Path:
        """Folder of prepared rows and caches; may be emptied at any time."""
        return self.private / "work"

    @property
    def log(self) -> Path:
        """The site's private log."""
        return self.private / "site.log"

    def secret(self) -> bytes:
        """The site's secret, 32 bytes: keys fingerprints and pseudonyms.

        Raises
        ------
        ConfigError
            Where it is missing or damaged.
        """
        path = self.private / "secret.key"
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if len(data) != 32:
            raise ConfigError(
                "config.missing-file",
                f"{path} does not hold this site's secret (32 bytes).",
                "Restore it from the site's backup: fingerprints and pseudonyms depend on it.",
                site=self.name,
            )
        return data

    def key(self) -> Ed25519PrivateKey:
        """The site's signing key; raises `ConfigError` where it is missing or damaged."""
        try:
            return load_key(self._key)
        except FolkmootError as error:
            error.site = self.name
            raise

    def __repr__(self) -> str:
        return f"SiteHome({self.name!r})"


def _at(root: str) -> SiteHome:
    """The home in a folder; one that was found before where its ``site.toml`` has not changed."""
    place = root if os.path.isabs(root) else os.path.join(os.getcwd(), root)
    home = _found.get(place)
    if home is None or load_settings(home._file) is not home.settings:
        home = _found[place] = SiteHome(Path(place))
    return home


def _settings(
    name: str, federations: list[str], permissions: Permissions, simulated: bool
) -> SiteSettings:
    from folkmoot.sections import parse

    values = {**permissions.model_dump(), "federations": federations}
    return parse(
        SiteSettings,
        {"name": name, "simulated": simulated, "permissions": values},
        source=f"site {name}",
    )


def _new_secret(path: Path) -> None:
    if path.exists():
        return
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(os.urandom(32))
    os.replace(part, path)


def _remote(root: Path) -> str:
    """Remote beside the workspace's sites, relative, so that a workspace can be moved."""
    if root.parent.name == "sites":
        return os.path.join("..", "..", "remotes", root.name)
    return os.path.join("..", f"{root.name}-remote")
