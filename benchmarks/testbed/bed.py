"""Coordinator and sites below one folder, run by the commands that people use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from benchmarks.testbed.canaries import IDENTIFIERS, canaries, deal, row
from benchmarks.testbed.network import ADDRESS, SITES
from benchmarks.testbed.users import COORDINATOR, ROOT, Users, open_ways
from folkmoot.errors import TransientError
from folkmoot.params import Params, load_params

__all__ = ["ROOT", "Testbed"]

_HARM = ROOT / "benchmarks" / "testbed" / "harm"


class Testbed:
    """Coordinator and sites below one folder.

    Parameters
    ----------
    folder : Path
        Emptied first.
    rounds : int
        Rounds of the training.
    changes : sequence of str
        Further settings, ``key=value``.
    namespaces : str, optional
        Prefix of the network namespaces that were made; None for loopback.
    server : mapping, optional
        Settings of ``coordinator/server.toml``.
    users : bool
        Whether each party is a user of its own (root alone can do that).
    keys : bool
        Whether sites write down the session keys of their TLS connections (:meth:`session_keys`).
    harmful : bool
        Whether sites can be told to fail or to hang (:meth:`harm`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 4,
        changes: Sequence[str] = (),
        namespaces: str | None = None,
        server: Mapping[str, Any] | None = None,
        users: bool = False,
        keys: bool = False,
        harmful: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        self.users = Users() if users else None
        self._keys, self._harmful = keys, harmful
        self.namespaces = namespaces
        self._changes = [f"model.linear.rounds={rounds}", *changes]
        self._server = dict(server or {})
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.host = ADDRESS if namespaces else "127.0.0.1"
        self.port = 8443 if namespaces else _free_port()
        self.params: Params = self._made()

    @property
    def workspace(self) -> Path:
        """The coordinator's."""
        return self.folder / "coordinator"

    def log(self, name: str) -> Path:
        """What a running command says; anew at each start."""
        return self.folder / f"{name}.log"

    def home(self, site: str) -> Path:
        """A site's folder."""
        return self.folder / site / "home"

    def canaries(self, *, made: bool = False) -> dict[str, str | float | bytes]:
        """What was planted in the sites' rows; with the sites' secrets once they are made."""
        return canaries(self.folder, Path("home") if made else None)

    @property
    def keyed(self) -> tuple[str, ...]:
        """Who writes down session keys: on a shared loopback the coordinator too, which asks itself."""
        own = () if self.namespaces else (COORDINATOR,)
        return (*SITES, *own) if self._keys else ()

    def session_keys(self, name: str) -> Path:
        """Session keys of a party's TLS connections, in the format of ``SSLKEYLOGFILE``; mode 0600."""
        return self.folder / name / "tls-session-keys.log"

    def harm(self, site: str, kind: str) -> Path:
        """Let a site's next training do harm, or none (``""``); returns the file that says it began."""
        file = self.folder / site / "harm"
        seen = file.with_name("harm.seen")
        seen.unlink(missing_ok=True)
        told = file.with_name("harm.row")
        told.write_text(row(self.folder, site).to_csv(index=False))
        file.write_text(kind)
        self._give(site, told)
        self._give(site, file)
        return seen

    def _give(self, name: str, path: Path) -> None:
        if self.users is not None:
            self.users.give(name, path)

    def _made(self) -> Params:
        """Folder, params and each site's rows, as its own people would bring them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.workspace.mkdir(parents=True)
        source = load_params(_blank(self.folder), self._changes)
        contract = self.workspace / "contract.yaml"
        named = yaml.safe_load((ROOT / "folkmoot/contracts/breast_cancer.yaml").read_text())
        for name, kind in reversed(IDENTIFIERS):
            column = {"name": name, "role": "direct_identifier", "type": kind}
            named["columns"].insert(0, column)
        contract.write_text(yaml.safe_dump(named), encoding="utf-8")
        values = source.model_dump(mode="json")
        values["federation"] |= {"sites": list(SITES), "workspace": str(self.workspace)}
        values["data"] |= {"recipe": None, "contract": str(contract)}
        file = self.workspace / "params.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        deal(self.folder)
        (self.workspace / "coordinator").mkdir()
        settings = self.workspace / "coordinator" / "server.toml"
        settings.write_text(tomli_w.dumps(self._server), encoding="utf-8")
        if self.users is not None:
            self.folder.chmod(0o711)
            for site in SITES:  # the checkout is another's
                (self.folder / site / ".gitconfig").write_text(f"[safe]\n\tdirectory = {ROOT}\n")
            if self.namespaces:
                open_ways(self.folder)
        for name in self.keyed:
            self.session_keys(name).touch(mode=0o600)
        for name in (COORDINATOR, *SITES) if self.users else ():
            self._give(name, self.folder / name)
        return load_params(file)

    # Commands ---------------------------------------------------------------------------------

    def command(self, *arguments: str, site: str | None = None, check: bool = True) -> str:
        """Run a ``folkmoot`` command as the coordinator or as a site; returns what it printed."""
        done = subprocess.run(
            self._inside([sys.executable, "-m", "folkmoot.cli", *arguments], site),
            cwd=self.workspace if site is None else self.folder / site,
            env=self._environment(site),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and check:
            raise TransientError(
                "transient.service",
                f"folkmoot {' '.join(arguments[:2])} failed: {done.stderr.strip()[-2000:]}",
                "See above.",
            )
        return done.stdout

    def begin(self, name: str, *arguments: str, site: str | None = None) -> None:
        """Start a ``folkmoot`` command that goes on; its output goes to ``<name>.log``."""
        log = self.log(name).open("wb")
        self.running[name] = subprocess.Popen(
            self._inside([sys.executable, "-m", *self.lasting(arguments, site)], site),
            cwd=self.workspace if site is None else self.folder / site,
            env=self._environment(site),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def lasting(self, arguments: Sequence[str], site: str | None) -> list[str]:
        """Module, and its arguments, that a command which goes on is run by."""
        return ["folkmoot.cli", *arguments]

    def start(self, name: str) -> None:
        """Start the coordinator or a site's worker, for the first time or again."""
        self.begin(name, *self._commands[name], site=None if name == "coordinator" else name)

    def end(self, name: str, *, hard: bool = False) -> None:
        """Stop it, with all it started."""
        process = self.running.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _inside(self, command: Sequence[str], site: str | None) -> list[str]:
        """A command as it is run by the coordinator's user or a site's, in its namespace."""
        made = list(command)
        if self.users is not None:
            made = self.users.command(site or COORDINATOR, made)
        if self.namespaces is None or site is None:
            return made
        return ["ip", "netns", "exec", f"{self.namespaces}-{site}", *made]

    def _environment(self, site: str | None) -> dict[str, str]:
        """What that command is run with."""
        dropped = ("AIRFLOW", "FOLKMOOT_", "XDG_") if self.users else ("AIRFLOW", "FOLKMOOT_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        if self.users is not None:
            name = site or COORDINATOR
            kept |= self.users.environment(name, self.folder / name)
        path = [str(ROOT)]
        if (site or COORDINATOR) in self.keyed:
            kept["SSLKEYLOGFILE"] = str(self.session_keys(site or COORDINATOR))
        if site is not None:
            kept["FOLKMOOT_SITE_HOME"] = str(self.home(site))
            if self._harmful:
                kept["TESTBED_HARM"] = str(self.folder / site / "harm")
                path.append(str(_HARM))
        return {**kept, "PYTHONPATH": os.pathsep.join(path)}

    # The federation ---------------------------------------------------------------------------

    def __enter__(self) -> Testbed:
        return self

    def __exit__(self, *_: Any) -> None:
        for name in [*SITES, "coordinator"]:
            self.end(name)

    def enrol(self, say: Any = print) -> None:
        """Make sites, start the coordinator, let the sites join; all as people would."""
        url = f"https://{self.host}:{self.port}"
        listen = self.host
        self._commands = {"coordinator": ["coordinator", "up", "--url", url, "--listen", listen]}
        self.start("coordinator")
        for site in SITES:
            say(f"{site}: site init")
            self.command(
                *("site", "init", site, "--federation", self.params.federation.name),
                *("--folder", str(self.home(site)), "--remote", str(self.folder / site / "remote")),
                *("--data", str(self.folder / site / "rows.parquet")),
                site=site,
            )
        cards = [self._hand(self.home(s) / "public.toml", None, f"{s}.toml") for s in SITES]
        self.command("site", "enrol", *map(str, cards))
        roster = self.workspace / "roster.toml"
        for word in ("sign", "accept"):
            for site in SITES:
                copy = self._hand(roster, site, "roster.toml")
                self.command("roster", word, site, "--roster", str(copy), site=site)
                roster = self._hand(copy, None, "roster.toml")
        self.wait("Sites reach", "coordinator")
        for site in SITES:
            say(f"{site}: site join, site up")
            token = self.command("coordinator", "invite", site).strip()
            self.command("site", "join", site, token, site=site)
            self._commands[site] = ["site", "up", site]
            self.start(site)

    def _hand(self, file: Path, site: str | None, name: str) -> Path:
        """A copy of a file, brought to a site or the coordinator by hand; returns where it lies."""
        there = self.folder / (site or COORDINATOR) / name
        there.write_bytes(file.read_bytes())
        self._give(site or COORDINATOR, there)
        return there

    def wait(self, text: str, name: str, timeout: float = 240.0) -> str:
        """Wait until a running command has said something; returns all that it said."""
        deadline = time.monotonic() + timeout
        while True:
            said = self.log(name).read_text(errors="replace")
            if text in said:
                return said
            process = self.running[name]
            if process.poll() is not None or time.monotonic() > deadline:
                raise TransientError(
                    "transient.service", f"{name} did not come up: {said[-2000:]}", "See above."
                )
            time.sleep(0.2)

    def api(self) -> Any:
        """The coordinator's own Airflow API, on its loopback."""
        from pipelines.hosts.airflow_api import Client

        return _Api(self, Client)

    def train(
        self,
        dag: str = "federated_linear",
        timeout: float = 900.0,
        conf: Mapping[str, Any] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Run the DAG; returns its state, seconds, and the tasks.

        Parameters
        ----------
        dag : str
            The DAG.
        timeout : float
            Seconds after which the run is left as it is.
        conf : mapping, optional
            What the run's form is filled in with.
        meanwhile : callable, optional
            Called once the run is asked for.
        """
        api = self.api()
        began = time.time()
        api.wait_dag(dag, 0.0)
        run = api.trigger(dag, conf)
        if meanwhile is not None:
            meanwhile()
        deadline = time.monotonic() + timeout
        while (state := api.dag_run(dag, run)["state"]) not in {"success", "failed"}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        tasks = api.tasks(dag, run)
        api.close()
        done = {"state": state, "seconds": time.time() - began, "tasks": tasks, "dag_run": run}
        return {**done, "dag": dag}

    def shown(self, done: Mapping[str, Any], site: str) -> str:
        """What Airflow's pages show of a site's first failed task in a run of `train`."""
        failed = [t for n, t in done["tasks"].items() if t["state"] == "failed" and site in n]
        if not failed:
            return "no task failed"
        api = self.api()
        task = min(failed, key=lambda t: str(t["start_date"]))
        log = api.task_log(done["dag"], done["dag_run"], task["task_id"], task["try_number"])
        api.close()
        return next((x for x in reversed(log.splitlines()) if f"[{site}]" in x), "nothing")


def _Api(bed: Testbed, base: Any) -> Any:
    """The coordinator's own Airflow API, on its loopback."""

    class Api(base):  # type: ignore[misc]
        @property
        def url(self) -> str:
            said = (bed.folder / "coordinator.log").read_text()
            line = next(x for x in said.splitlines() if x.startswith("Airflow's UI: "))
            return line.split()[2]

        @property
        def login(self) -> tuple[str, str]:
            file = bed.workspace / "airflow" / "passwords.json"
            return "admin", str(json.loads(file.read_text())["admin"])

        @property
        def logs(self) -> Path:
            return bed.workspace / "airflow" / "logs" / "services"

        def alive(self) -> None:
            """The caller sees it by time."""

    return Api()


def _blank(folder: Path) -> Path:
    file = folder / "blank.yaml"
    file.write_text("{}\n")
    return file


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
