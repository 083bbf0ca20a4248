"""What every task of the Airflow host stands on: the project's settings, names, and errors.

Operators of our own rather than TaskFlow functions: they render no templates and load no provider,
which would cost every task of every round.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from folkmoot.contract import Contract
from folkmoot.errors import FolkmootError
from folkmoot.identity import Roster
from folkmoot.params import Params, load_params
from folkmoot.plan import RunContext, Step
from pipelines.coordinator import lock
from pipelines.hosts.airflow_told import tell
from pipelines.hosts.execute import open_context, store_of
from pipelines.hosts.walk import contract_for

__all__ = [
    "ANONYMISE",
    "Project",
    "ProjectTask",
    "acquire_lock",
    "at_site",
    "load_project",
    "run_name",
    "task_id",
]

ROOT = Path(__file__).resolve().parents[2]
#: Steps of a site's preparation that have a task group of their own.
ANONYMISE = ("recode", "verify", "report")


@dataclass(frozen=True)
class Project:
    """The settings that DAG files are made of.

    Parameters
    ----------
    root : Path
        Folder that relative paths of ``params.yaml`` start from.
    params : Params
        Settings with ``model.kind`` as the DAG wants it.
    """

    root: Path
    params: Params

    @property
    def workspace(self) -> Path:
        """The workspace as an absolute path; ``FOLKMOOT_WORKSPACE`` goes before the settings."""
        return self.root / (
            os.environ.get("FOLKMOOT_WORKSPACE") or self.params.federation.workspace
        )

    @property
    def scheduled(self) -> bool:
        """Whether DAGs start by themselves: not in an Airflow that was started for one run."""
        return not os.environ.get("FOLKMOOT_UNSCHEDULED")

    @contextlib.contextmanager
    def folder(self) -> Iterator[None]:
        """Work in the project's folder, so that its relative paths hold."""
        with contextlib.chdir(self.root):
            yield

    def contract(self) -> Contract:
        """The federation's contract."""
        with self.folder():
            return contract_for(self.params)

    def outside(self) -> RunContext:
        """Context of work that belongs to no run, such as refreshing a site's dataset."""
        store = store_of(self.params, self.workspace)
        return RunContext(
            "refresh", self.params, self.contract(), Roster({}), store, self.workspace
        )

    def context(self, run: str) -> RunContext:
        """Context of a run that was opened."""
        store = store_of(self.params, self.workspace)
        return open_context(run, self.params.federation.name, store, self.workspace)


def load_project(kind: str | None = None) -> Project:
    """Read the settings: ``FOLKMOOT_PARAMS``, or the project's ``params.yaml``.

    ``FOLKMOOT_ROOT`` names the folder that relative paths start from, where it is not the file's.
    """
    file = Path(os.environ.get("FOLKMOOT_PARAMS") or ROOT / "params.yaml")
    root = Path(os.environ.get("FOLKMOOT_ROOT") or file.resolve().parent)
    wanted = {None: [], "statistics": ["statistics.active=true"]}
    training = [f"model.kind={kind}", "statistics.active=false"]
    params = load_params(file, wanted.get(kind, training))
    return Project(root, params)


def run_name(dag: str, dag_run: str) -> str:
    """Name of the federation's run that a DAG run carries out; the same at every retry."""
    mark = hashlib.sha256(f"{dag}\n{dag_run}".encode()).hexdigest()[:6]
    readable = re.sub(r"[^a-z0-9]+", "-", dag_run.lower()).strip("-")[:64]
    return f"{dag.removeprefix('federated_')}-{readable}-{mark}"


def task_id(step: Step | str) -> str:
    """Airflow's id of a step's task: ``round-003/train/site-a`` is ``round-003.train-site-a``."""
    parts = (step if isinstance(step, str) else step.name).split("/")
    if parts[0] == "prepare" and parts[1] in ANONYMISE:
        return f"prepare.{parts[2]}.anonymise-{parts[2]}.{parts[1]}-{parts[2]}"
    if parts[0] in {"agree", "prepare"} and len(parts) > 2:
        return f"{parts[0]}.{parts[2]}.{parts[1]}-{parts[2]}"
    if parts[0] == "agree":
        return f"agree.{parts[1]}"
    if parts[0] == "setup":
        return f"setup.{'-'.join(parts[1:])}"
    if parts[0] == "final":
        if parts[1] in {"survivors", "unmask"}:
            return f"evaluate.{'-'.join(parts[1:])}"
        return "-".join(parts[1:]) if len(parts) < 3 else f"evaluate.{parts[2]}"
    if parts[-1] == "initialise":
        return "initialise"
    return f"{parts[0]}.{'-'.join([*parts[1:], parts[0].removeprefix('round-')])}"


def at_site(site: str) -> dict[str, str]:
    """Where a site's task goes: its queue, and in a deployment the executor of the sites."""
    executor = os.environ.get("FOLKMOOT_SITES_EXECUTOR")
    return {"queue": f"site-{site}", **({"executor": executor} if executor else {})}


def acquire_lock(run: RunContext) -> None:
    """Make the run the federation's active one; raises ``round.busy`` beside another."""
    patience = 2.0 * run.params.federation.deadline_seconds
    lock.acquire(run.workspace, run.federation, run.run, "airflow", patience)


class ProjectTask(BaseOperator):  # type: ignore[misc]
    """Common ground: the project's folder, the run's name, and errors as Airflow wants them."""

    #: Codes of errors that are retried besides those that are retryable anyway.
    patient: frozenset[str] = frozenset()

    #: Seconds that the task may take, where its run says so rather than the project.
    deadline: int | None = None

    def __init__(self, *, project: Project, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.project = project

    def execute(self, context: Any) -> Any:
        """Do the work; see :meth:`work`."""
        try:
            with self.project.folder():
                return self.work(context)
        except AirflowTaskTimeout:
            seconds = self.deadline or self.project.params.federation.deadline_seconds
            late = (
                f"{self.task_id} did not finish within {seconds} s (federation.deadline_seconds)."
            )
            tell(self.queue, late)
            raise AirflowFailException(late) from None
        except FolkmootError as error:
            tell(self.queue, error)
            again = error.retryable or error.code in self.patient
            if not again or _last_try(context):
                self.give_up(context)
            failure = AirflowException if again else AirflowFailException
            raise failure(str(error)) from None
        except AirflowException:
            raise
        except Exception:
            tell(self.queue, f"{self.task_id} failed outside its step.")
            if _last_try(context):
                self.give_up(context)
            raise

    def work(self, context: Any) -> Any:
        """What the task does."""
        raise NotImplementedError

    def give_up(self, context: Any) -> None:
        """What has to happen where the task fails for good."""

    def run(self, context: Any) -> str:
        """Name of the run."""
        named = context["params"].get("run")
        return named or run_name(context["dag"].dag_id, context["dag_run"].run_id)


def _last_try(context: Any) -> bool:
    return bool(context["ti"].try_number > context["ti"].max_tries)
