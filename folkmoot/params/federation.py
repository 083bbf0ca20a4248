"""Who trains together: section ``federation``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from folkmoot.params.kinds import Name
from folkmoot.sections import Section

__all__ = ["Federation"]


class Federation(Section):
    """Who trains together."""

    name: Name = "demo"
    """Name of the federation; also the MLflow experiment."""
    sites: Annotated[list[Name], Field(min_length=1, max_length=1024)] = [
        "site-a",
        "site-b",
        "site-c",
        "site-d",
    ]
    """Names of the member sites. Aggregation always follows the sorted names."""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """Fewest sites whose contributions close a round; all sites when null."""
    deadline_seconds: Annotated[int, Field(ge=1)] = 600
    """Seconds a site has for one task before its round goes on without it."""
    requester: Name = "coordinator"
    """Who asks for this training: a team, a study. Sites may bound epsilon by requester."""
    code: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    """Commit of folkmoot that every site must run, unchanged, and that its steward approved where `permissions.code` of site.toml names commits; any when null."""
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.,<>=!~* ]{1,100}$")] | None = None
    """Versions of folkmoot that every site must run, such as `==0.1.*`, for sites that install packages; any when null."""
    workspace: str = ".folkmoot"
    """Folder for everything that is not versioned with the project: embedded sites, runs, MLflow."""
    exchange: str | None = None
    """Exchange store as an fsspec URL (`file:///…`, `s3://bucket/prefix`); a folder of the workspace when null."""
    exchange_options: dict[str, str | int | bool] = {}
    """Options for the fsspec filesystem, such as `endpoint_url`. Credentials belong in the environment."""

    @model_validator(mode="after")
    def _sites(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("site names must be distinct")
        if self.quorum is not None and self.quorum > len(self.sites):
            raise ValueError("quorum is larger than the number of sites")
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Site names in the order of aggregation."""
        return tuple(sorted(self.sites))

    @property
    def required(self) -> int:
        """Fewest contributions that close a round."""
        return len(self.sites) if self.quorum is None else self.quorum
