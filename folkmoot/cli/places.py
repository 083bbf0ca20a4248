"""Options that several commands share: which params, which workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from folkmoot.params import Params

__all__ = ["Overrides", "ParamsFile", "Workspace", "params_of", "workspace_of"]

ParamsFile = Annotated[
    Path | None,
    typer.Option(
        "--params", metavar="FILE", help="The federation's settings; params.yaml if there."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]
Workspace = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds sites/; federation.workspace of params.yaml by default. "
        "FOLKMOOT_SITE_HOME goes before it."
    ),
]


def params_of(file: Path | None, overrides: list[str] | None) -> Params:
    """Params of ``file``, of ``params.yaml`` where there is one, else the defaults."""
    from folkmoot.params import load_params, parse_params

    if file is None:
        default = Path("params.yaml")
        if not default.exists():
            return parse_params({}, overrides or ())
        file = default
    return load_params(file, overrides or ())


def workspace_of(workspace: Path | None) -> Path:
    """The folder given, else that of ``params.yaml``, else ``.folkmoot``."""
    return workspace if workspace is not None else Path(params_of(None, None).federation.workspace)
