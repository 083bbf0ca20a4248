"""``site.toml``: what a site permits and where its dataset lies.  Private, and the site's alone.

The stricter of site and plan wins, and the site checks it itself: nothing here is ever read by
the coordinator.  The file stays outside git, so that checking out an old dataset version cannot
bring old permissions back.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import Field, model_validator

from folkmoot.errors import ConfigError
from folkmoot.params import Name, Positive
from folkmoot.params.statistics import Question
from folkmoot.sections import Section, parse

__all__ = [
    "AnonymisationSettings",
    "Ceilings",
    "Dataset",
    "Permissions",
    "SiteSettings",
    "StatisticsSettings",
    "load_settings",
    "save_settings",
]

#: Figures of the risk report that may leave where the steward allows it.
Figure = Literal["rows", "suppressed", "k", "prosecutor", "journalist", "marketer", "loss"]
Mechanism = Literal["none", "clip", "gaussian", "diffprivlib"]


class Dataset(Section):
    """Where the site's rows lie."""

    path: str = "data/dataset.parquet"
    """Parquet file, relative to the site's folder; DVC tracks it."""
    revision: str | None = None
    """Git revision of the site's repository whose dataset is used; the working copy when absent."""
    lineage: Name = "main"
    """The people whose rows these are. All versions under one name spend one budget: give it a new name for new people only."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        path = Path(self.path)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".parquet":
            raise ValueError("path must name a .parquet file inside the site's folder")
        if path.parts[0] in {"private", ".dvc", ".git"}:
            raise ValueError("path must not lie in private/, .dvc/ or .git/")
        if self.revision is not None and self.revision.startswith("-"):
            raise ValueError("revision is not a git revision")
        return self


class Permissions(Section):
    """What the site lets a plan ask of it."""

    federations: list[Name] = []
    """Federations whose plans the site carries out; none when empty."""
    kinds: list[Literal["linear", "trees"]] = ["linear", "trees"]
    """Kinds of model that may be trained."""
    mechanisms: list[Mechanism] = ["none", "clip", "gaussian", "diffprivlib"]
    """Mechanisms under which an update may leave; drop `none` and `clip` to insist on noise."""
    columns: list[str] | None = None
    """Columns that may reach training; all of the contract's when absent."""
    minimum_rows: Annotated[int, Field(ge=1)] = 20
    """Fewest training rows behind anything that leaves."""
    distrusted: list[Name] = []
    """Sites this one takes part in no run with, whatever the roster says: at once, before a roster without them is signed."""
    minimum_sites: Annotated[int, Field(ge=1)] = 2
    """Fewest sites in a federation for this site to take part."""
    minimum_contributors: Annotated[int, Field(ge=2)] = 3
    """Fewest sites in a secure sum that this site helps to open (`aggregation.protection: masks`)."""
    insist_on_masks: bool = False
    """Whether nothing but sums under masks may leave: refuses plans with `aggregation.protection: none`, and `ckks`, where one colluding site opens all."""
    epsilon_ceiling: Positive | None = None
    """Most epsilon of all releases of one lineage together, at `delta`; with one, `none` and `clip` are refused."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta at which ceilings count."""
    differencing: bool = False
    """Whether plans without differential privacy may use two versions of one lineage: subtracting their sums can give the changed rows back exactly."""
    evaluation: bool = True
    """Whether exact counts of a model's results on held-out rows may leave."""
    coordinator: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Public key that the coordinator of a run must have; any when absent."""
    trackers: list[Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?$")]] = []
    """Hosts, or `host:port`, of trackers that this site connects to directly for `xgboost_federated`; none when empty. The coordinator then sees this site's own histograms, and all other sites quantile summaries of its columns, which hold values of rows."""
    stores: list[Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?$")]] = []
    """Hosts, or `host:port`, of S3 stores that this site reads large artefacts from, and uploads its own to, when its coordinator sends it there; none when empty: everything then goes through the coordinator."""
    central_noise: bool = False
    """Whether the coordinator is trusted with exact sums of clipped records, to add the noise itself (`privacy.noise: coordinator`)."""
    code: list[Annotated[str, Field(pattern="^[0-9a-f]{40}$")]] = []
    """Commits of folkmoot that the steward has approved for this site's worker; any clean checkout when empty."""
    consent: bool = False
    """Whether the site takes part only in what its steward's signed consent covers (`folkmoot site consent`)."""
    logs: bool = False
    """Whether the text of tasks' logs may go to the coordinator; it must allow it as well."""
    seeded: bool = False
    """Whether noise from a seed is allowed: NOT PRIVATE, for tests and studies on public data."""


class Ceilings(Section):
    """Further ceilings on epsilon, each over the releases of one lineage and at `permissions.delta`."""

    federation: Positive | None = None
    """Most epsilon for any one federation."""
    requester: Positive | None = None
    """Most epsilon for any one requester (`federation.requester` of the plan)."""
    period: Positive | None = None
    """Most epsilon within `days`, of all releases."""
    days: Annotated[int, Field(ge=1)] = 365
    """Length of the period: today and the days before it (UTC)."""
    federations: dict[Name, Positive] = {}
    """Ceilings for federations by name, instead of `federation`."""
    requesters: dict[Name, Positive] = {}
    """Ceilings for requesters by name, instead of `requester`."""

    @property
    def any(self) -> bool:
        """Whether one is set."""
        limits = (self.federation, self.requester, self.period)
        return bool(self.federations or self.requesters) or limits != (None, None, None)


class StatisticsSettings(Section):
    """What the steward permits of statistics (`folkmoot statistics run`)."""

    kinds: list[Question] = []
    """Statistics that may be asked for; none when empty."""
    exact: bool = False
    """Whether statistics without noise may leave; each is an entry of the ledger, and no second version of a lineage is counted (`permissions.differencing`)."""
    alone: bool = False
    """Whether this site's own sums may be seen by the coordinator (`aggregation.protection: none`)."""
    minimum_contributors: Annotated[int, Field(ge=2)] = 3
    """Fewest sites behind a sum or a computed figure that this site helps to open."""
    minimum_cell: Annotated[int, Field(ge=1)] = 5
    """Fewest rows behind a published cell: plans with a smaller `statistics.minimum_cell` are refused."""
    cells_at_site: bool = False
    """Whether plans without noise must leave small cells out already at the sites (`statistics.small_cells: site`)."""
    overlap_minimum: Annotated[int, Field(ge=1)] = 100
    """Fewest people of this site in an overlap, and smallest public set size."""
    overlap_times: Annotated[int, Field(ge=1)] = 1
    """Runs in which one partner may measure the overlap with one lineage: two sizes that differ by one person's row tell whether that person is here."""
    overlap_partners: list[Name] | None = None
    """Sites with which an overlap may be measured; any when absent."""
    compute: bool = False
    """Whether this site computes on other sites' shares, with connections to the other two computing sites."""
    computing: list[Name] | None = None
    """Sites that may hold a share of this site's counts: two of the three together could read them; any when absent."""


class AnonymisationSettings(Section):
    """What the steward asks of anonymisation, and has answered about the site's columns."""

    minimum_k: Annotated[int, Field(ge=1)] = 1
    """Least k with which the site takes part."""
    contract: str | None = None
    """SHA-256 of the only data contract that the site accepts (`folkmoot data show` prints it); any when absent."""
    accepted: list[str] = []
    """Columns that the identifier scan may take for identifiers, names or text about people, and that the steward has found to be none: `column: finding`."""
    summary: list[Figure] = []
    """Figures of the risk report that may leave the site; none when empty."""
    population: str | None = None
    """Parquet file of the population table behind delta-presence and k-map, relative to the site's folder."""

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if any(not name or not sep for name, sep, _ in (a.partition(":") for a in self.accepted)):
            raise ValueError("every entry of accepted must be written `column: finding`")
        if self.population is not None:
            path = Path(self.population)
            if path.is_absolute() or ".." in path.parts or path.suffix != ".parquet":
                raise ValueError("population must name a .parquet file inside the site's folder")
        return self


class SiteSettings(Section):
    """All of ``site.toml``."""

    name: Name
    """Name of the site, as on the federation's roster."""
    simulated: bool = False
    """Made from a public recipe: its dataset may be replaced by another recipe's."""
    dataset: Dataset = Dataset()
    """Where the site's rows lie."""
    permissions: Permissions = Permissions()
    """What the site lets a plan ask of it."""
    anonymisation: AnonymisationSettings = AnonymisationSettings()
    """What the steward asks of anonymisation, and has answered about the site's columns."""
    ceilings: Ceilings = Ceilings()
    """Most epsilon per federation, requester and period."""
    statistics: StatisticsSettings = StatisticsSettings()
    """What the steward permits of statistics."""
    pins: dict[str, bool | int | float | str | list[str]] = {}
    """Settings of a plan that must have these values, by their names in params.yaml, such as "data.holdout.fraction"."""


#: What was read from a file that has not changed since: every step of a site asks for it.
_read: dict[str, tuple[tuple[int, ...], SiteSettings]] = {}


def load_settings(path: Path) -> SiteSettings:
    """Read ``site.toml``; a change on disk counts from the next call.

    Raises
    ------
    ConfigError
        For a missing file, broken TOML, unknown keys (with the nearest known name) and values of
        the wrong type or range.
    """
    try:
        name = str(path)
        found = os.stat(name)
        stamp = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        if name in _read and _read[name][0] == stamp:
            return _read[name][1]
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "config.missing-file",
            f"{path} does not exist.",
            "Make the site with `folkmoot site init`, or name its folder in FOLKMOOT_SITE_HOME.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        raise ConfigError(
            "config.syntax", f"{path} is not readable TOML.", "Mend the file's syntax or its mode."
        ) from None
    settings = parse(SiteSettings, values, source=str(path))
    _read[name] = (stamp, settings)
    return settings


def save_settings(settings: SiteSettings, path: Path) -> None:
    """Write ``site.toml`` (mode 0600), whole or not at all, each key under its explanation."""
    text = "# Private to this site; never shared with another site or the coordinator.\n"
    text += _table(settings, ("name", "simulated"))
    text += "\n[dataset]\n" + _table(settings.dataset)
    text += "\n[permissions]\n" + _table(settings.permissions)
    text += "\n[ceilings]\n" + _table(settings.ceilings)
    text += "\n[statistics]\n" + _table(settings.statistics)
    text += f"\n# {SiteSettings.model_fields['pins'].description}\n"
    text += "[pins]\n" + tomli_w.dumps(settings.pins)
    text += "\n[anonymisation]\n" + _table(settings.anonymisation)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(part, path)


def _table(section: Section, names: tuple[str, ...] | None = None) -> str:
    fields = type(section).model_fields
    lines = []
    for name in names or tuple(fields):
        value = getattr(section, name)
        if isinstance(value, dict):  # one line per table, so that the keys after it stay in place
            pairs = ", ".join(tomli_w.dumps({k: v}).strip() for k, v in value.items())
            entry = f"{name} = {{ {pairs} }}\n" if pairs else f"{name} = {{}}\n"
        else:
            entry = f"# {name} =\n" if value is None else tomli_w.dumps({name: value})
        lines.append(f"# {fields[name].description}\n{entry}")
    return "".join(lines)
