"""A DVC project of a federation: where its files lie, and whether ``dvc.yaml`` is the rendered one.

What stands in ``dvc.yaml`` is made in :mod:`pipelines.hosts.dvc_pipeline`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError
from folkmoot.params import Params, load_params
from folkmoot.plan import RoundPlan
from pipelines.hosts.dvc_pipeline import Pipeline
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of

__all__ = ["RUN", "Project"]

#: Name of a project's run: it stays the same, so that unchanged rounds are found again.
RUN = "dvc"
_HEADER = """\
# Rendered from params.yaml by `folkmoot plan render`. Do not edit by hand.
# `dvc repro` runs what changed; `dvc metrics show` and `dvc plots show` show what came of it.
"""


@dataclass(frozen=True)
class Project:
    """A folder with ``params.yaml``, ``dvc.yaml``, ``dvc.lock`` and ``report/``.

    Parameters
    ----------
    folder : Path
        The folder; inside a DVC repository.
    directory : Path
        Where relative paths of the params begin: ``folder``, except for a project that
        ``folkmoot run`` made in a workspace.
    workspace : Path
        ``federation.workspace``, absolute.
    params : Params
        As in ``params.yaml``.
    run : str
        Name of the run in the exchange store.
    apart : bool
        Whether it keeps an exchange store of its own.  DVC does not look into a repository inside
        its repository, so a pipeline made in the workspace must not make a repository of that.
    """

    folder: Path
    directory: Path
    workspace: Path
    params: Params
    run: str = RUN
    apart: bool = False

    @staticmethod
    def beside(params_file: Path) -> Project:
        """The project of a params file.

        Raises
        ------
        ConfigError
            Where the file is not called ``params.yaml``, as DVC expects, or is not valid.
        """
        folder = params_file.absolute().parent
        if params_file.name != "params.yaml":
            raise ConfigError(
                "config.invalid",
                f"{params_file} is not called params.yaml, which DVC expects beside dvc.yaml.",
                "Rename it, or give each federation a folder of its own.",
            )
        directory, workspace, run = folder, None, RUN
        host = folder / "host.json"
        if host.exists():
            values = json.loads(host.read_text(encoding="utf-8"))
            directory, run = Path(values["directory"]), str(values["run"])
            workspace = Path(values["workspace"])
        params = load_params(params_file)
        shared = directory / params.federation.workspace
        return Project(folder, directory, workspace or shared, params, run, host.exists())

    @property
    def pipeline(self) -> Path:
        """``dvc.yaml``."""
        return self.folder / "dvc.yaml"

    @property
    def state(self) -> Path:
        """Folder of what the host itself notes: contract and roster as the stages see them."""
        if self.apart:
            return self.folder / "state"
        return self.workspace / "coordinator" / self.params.federation.name / "dvc" / self.run

    @property
    def exchange(self) -> Path:
        """Folder of the exchange store."""
        return (self.folder if self.apart else self.workspace) / "exchange"

    @property
    def report(self) -> Path:
        """Folder of metrics and plots."""
        return self.folder / "report"

    @cached_property
    def contract(self) -> Contract:
        """The federation's contract."""
        named = self.params.data.contract
        if named is None:
            return contract_for(self.params)
        data = self.params.data.model_copy(update={"contract": str(self.directory / named)})
        return contract_for(self.params.model_copy(update={"data": data}))

    @cached_property
    def plan(self) -> RoundPlan:
        """The plan."""
        return plan_of(self.params, self.contract)

    def stored(self, key: str) -> Path:
        """File of a key of the run in the exchange store."""
        return self.exchange / self.params.federation.name / "runs" / self.run / key

    def render(self) -> bool:
        """Write ``dvc.yaml``; returns whether it changed."""
        text = self.text()
        if self._written() == text:
            return False
        part = self.pipeline.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.pipeline)
        return True

    def require_fresh(self) -> None:
        """Raise `ConfigError` (``config.stale``) where ``dvc.yaml`` is not what `render` writes."""
        if self._written() != self.text():
            raise ConfigError(
                "config.stale",
                "dvc.yaml no longer matches params.yaml.",
                "Run `folkmoot plan render`, then `dvc repro`: only what changed runs again.",
            )

    def text(self) -> str:
        """``dvc.yaml`` as it should be.

        Raises
        ------
        ConfigError
            Where the exchange store or the workspace is no folder that DVC can manage.
        """
        self._manageable()
        pipeline = Pipeline(self)
        body = {
            "stages": pipeline.stages(),
            "metrics": ["report/metrics.json"],
            "plots": pipeline.plots(),
        }
        dumped: str = yaml.safe_dump(body, sort_keys=False, width=100, allow_unicode=True)
        return _HEADER + dumped

    def _written(self) -> str | None:
        return self.pipeline.read_text(encoding="utf-8") if self.pipeline.exists() else None

    def _manageable(self) -> None:
        if self.params.federation.exchange is not None and not self.apart:
            raise ConfigError(
                "config.invalid",
                "federation.exchange is set, but DVC keeps the exchange store's artefacts as the "
                "outputs of its stages, in the workspace.",
                "Leave federation.exchange null in a DVC project; `folkmoot run --host dvc --run NAME` "
                "publishes there.",
            )
        root = next((p for p in (self.folder, *self.folder.parents) if (p / ".dvc").is_dir()), None)
        if root is None:
            raise ConfigError(
                "config.installation",
                f"{self.folder} is not inside a DVC repository.",
                "Run `dvc init` (or `dvc init --no-scm`) there first.",
            )
        between = [p for p in self.exchange.parents if p != root and p.is_relative_to(root)]
        if not self.exchange.is_relative_to(root) or any((p / ".dvc").is_dir() for p in between):
            raise ConfigError(
                "config.invalid",
                f"federation.workspace lies outside the DVC repository {root}, or in another one "
                "inside it.",
                "Name a folder that belongs to it, such as .folkmoot.",
            )
