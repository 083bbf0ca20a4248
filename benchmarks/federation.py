"""``make federation``: a coordinator and three sites on one machine, as apart as the machine allows.

As root with ``ip``: a network namespace for the coordinator and one per site, each joined to the
coordinator's by a link of its own and routed to its one address alone.  Without, all of them share this
user and the loopback, and the summary says so.  Everything else is what real sites use: the commands
``coordinator up``, ``invite``, ``site init``, ``join``, ``up``, a DVC remote and a folder per site.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from folkmoot.errors import TransientError
from folkmoot.params import Params, load_params

#: Column of the public recipe whose first value is a canary.
COLUMN = "mean_radius"
SITES = ("clinic-a", "clinic-b", "clinic-c")
ADDRESS, NET = "10.77.255.1", "10.77"
ROOT = Path(__file__).resolve().parents[1]


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
    """

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 4,
        changes: Sequence[str] = (),
        namespaces: str | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.namespaces = namespaces
        self._changes = [f"model.linear.rounds={rounds}", *changes]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.host = ADDRESS if namespaces else "127.0.0.1"
        self.port = 8443 if namespaces else _free_port()
        self.params: Params = self._made()

    @property
    def workspace(self) -> Path:
        """The coordinator's."""
        return self.folder / "coordinator"

    def home(self, site: str) -> Path:
        """A site's folder."""
        return self.folder / site / "home"

    def canaries(self) -> dict[str, str | float]:
        """What was planted in the sites' rows: names, and values with digits of their own."""
        import pandas as pd

        found: dict[str, str | float] = {}
        for site in SITES:
            rows = pd.read_parquet(self.folder / site / "rows.parquet")
            found |= {f"name of {site} {i}": rows["patient"].iloc[i] for i in (0, 1, len(rows) - 1)}
            found[f"value of {site}"] = float(rows[COLUMN].iloc[0])
        return found

    def _made(self) -> Params:
        """Folder, params and each site's rows, as its own people would bring them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.workspace.mkdir(parents=True)
        source = load_params(None if not self._changes else _blank(self.folder), self._changes)
        contract = self.workspace / "contract.yaml"
        named = yaml.safe_load((ROOT / "folkmoot/contracts/breast_cancer.yaml").read_text())
        named["columns"].insert(0, {"name": "patient", "role": "direct_identifier", "type": "text"})
        contract.write_text(yaml.safe_dump(named), encoding="utf-8")
        values = source.model_dump(mode="json")
        values["federation"] |= {"sites": list(SITES), "workspace": str(self.workspace)}
        values["data"] |= {"recipe": None, "contract": str(contract)}
        file = self.workspace / "params.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        _deal(self.folder)
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
        log = (self.folder / f"{name}.log").open("wb")
        self._running[name] = subprocess.Popen(
            self._inside([sys.executable, "-m", "folkmoot.cli", *arguments], site),
            cwd=self.workspace if site is None else self.folder / site,
            env=self._environment(site),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def end(self, name: str, *, hard: bool = False) -> None:
        """Stop it, with all it started."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _inside(self, command: list[str], site: str | None) -> list[str]:
        if self.namespaces is None or site is None:
            return command
        return ["ip", "netns", "exec", f"{self.namespaces}-{site}", *command]

    def _environment(self, site: str | None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "FOLKMOOT_"))}
        own = {} if site is None else {"FOLKMOOT_SITE_HOME": str(self.home(site))}
        return {**kept, "PYTHONPATH": str(ROOT), **own}

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
        self.begin("coordinator", "coordinator", "up", "--url", url, "--listen", listen)
        for site in SITES:
            say(f"{site}: site init")
            self.command(
                *("site", "init", site, "--federation", self.params.federation.name),
                *("--folder", str(self.home(site)), "--remote", str(self.folder / site / "remote")),
                *("--data", str(self.folder / site / "rows.parquet")),
                site=site,
            )
            self.command("site", "enrol", str(self.home(site) / "public.toml"))
        roster = str(self.workspace / "roster.toml")
        for word in ("sign", "accept"):
            for site in SITES:  # a copy goes from hand to hand in real life
                self.command("roster", word, site, "--roster", roster, site=site)
        self.wait("Sites reach", "coordinator")
        for site in SITES:
            say(f"{site}: site join, site up")
            token = self.command("coordinator", "invite", site).strip()
            self.command("site", "join", site, token, site=site)
            self.begin(site, "site", "up", site, site=site)

    def wait(self, text: str, name: str, timeout: float = 240.0) -> str:
        """Wait until a running command has said something; returns all that it said."""
        deadline = time.monotonic() + timeout
        while True:
            said = (self.folder / f"{name}.log").read_text(errors="replace")
            if text in said:
                return said
            process = self._running[name]
            if process.poll() is not None or time.monotonic() > deadline:
                raise TransientError(
                    "transient.service", f"{name} did not come up: {said[-2000:]}", "See above."
                )
            time.sleep(0.2)

    def train(self, dag: str = "federated_linear", timeout: float = 900.0) -> dict[str, Any]:
        """Run the DAG; returns its state, seconds, and the tasks."""
        from pipelines.hosts.airflow_api import Client

        api = _Api(self, Client)
        began = time.time()
        api.wait_dag(dag, 0.0)
        run = api.trigger(dag)
        deadline = time.monotonic() + timeout
        while (state := api.dag_run(dag, run)["state"]) not in {"success", "failed"}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        tasks = api.tasks(dag, run)
        api.close()
        return {"state": state, "seconds": time.time() - began, "tasks": tasks, "dag_run": run}


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


def _deal(folder: Path) -> None:
    """Each site's rows, from the public recipe."""
    import pandas as pd

    from folkmoot.params import parse_params
    from pipelines.recipes import load, partition

    params = parse_params({"federation": {"sites": list(SITES)}})
    frame, contract = load("breast_cancer", params.data)
    parts: dict[str, pd.DataFrame] = partition(frame, contract, params)
    for number, (site, rows) in enumerate(parts.items()):
        (folder / site).mkdir()
        names = [f"Canary-{site}-{secrets.token_hex(6)}" for _ in range(len(rows))]
        rows = rows.reset_index(drop=True)  # noqa: PLW2901
        rows.insert(0, "patient", names)
        rows.loc[0, COLUMN] = 14.0 + number + secrets.randbelow(10**9) / 1e10
        rows.to_parquet(folder / site / "rows.parquet", index=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Namespaces ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def namespaces() -> Iterator[str]:
    """One for the coordinator and one per site, each with a link to the coordinator's alone."""
    prefix = f"fm{os.getpid()}"
    names = [f"{prefix}-c", *(f"{prefix}-{site}" for site in SITES)]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names[0], "address", "add", f"{ADDRESS}/32", "dev", "lo")
        for number, name in enumerate(names[1:], start=1):
            link, near = f"c{number}", f"{NET}.{number}"
            _ip(
                "-n",
                names[0],
                "link",
                "add",
                link,
                "type",
                "veth",
                "peer",
                "name",
                "up0",
                "netns",
                name,
            )
            for where, device, address in ((names[0], link, 1), (name, "up0", 2)):
                _ip("-n", where, "address", "add", f"{near}.{address}/30", "dev", device)
                _ip("-n", where, "link", "set", device, "up")
            _ip("-n", name, "route", "add", f"{ADDRESS}/32", "via", f"{near}.1")
        _ip("netns", "exec", names[0], "sysctl", "-qw", "net.ipv4.ip_forward=0")
        yield prefix
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def possible() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no ip command"
    name = f"fm{os.getpid()}-try"
    done = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if done.returncode:
        return "no right to make network namespaces"
    _ip("netns", "delete", name)
    return None


class Capture:
    """Every packet on the coordinator's side of each link."""

    def __init__(self, links: Sequence[str]) -> None:
        self.data, self.packets, self.ports = bytearray(), 0, set[int]()
        self._sockets = []
        for link in links:
            line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # type: ignore[attr-defined]
            line.bind((link, 0))
            line.settimeout(0.5)
            self._sockets.append(line)
        self._threads = [
            threading.Thread(target=self._read, args=(line,), daemon=True) for line in self._sockets
        ]
        self._over = False
        for thread in self._threads:
            thread.start()

    def _read(self, line: socket.socket) -> None:
        while not self._over:
            try:
                packet = line.recv(1 << 18)
            except TimeoutError:
                continue
            self.packets += 1
            self.data += packet
            if packet[12:14] == b"\x08\x00" and packet[23] == 6:  # IPv4, TCP
                start = 14 + (packet[14] & 15) * 4
                _, target = struct.unpack_from(">HH", packet, start)
                flags = packet[start + 13]
                if flags & 0x12 == 0x02:  # a connection is asked for
                    self.ports.add(target)

    def stop(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()


PROBE = """
import socket, sys
def open_(host, port):
    try:
        socket.create_connection((host, int(port)), 1.5).close()
        return "open"
    except OSError as error:
        return type(error).__name__
for target in sys.argv[1:]:
    print(target, open_(*target.split(":")))
"""


def probe(bed: Testbed, site: str, targets: Sequence[str]) -> dict[str, str]:
    """What a site can connect to."""
    done = subprocess.run(
        bed._inside([sys.executable, "-c", PROBE, *targets], site),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


# What is shown ------------------------------------------------------------------------------------


def search(places: dict[str, bytes], canaries: dict[str, str | float]) -> list[str]:
    """Canaries in what left the sites; the search is the tests' own."""
    spec = importlib.util.spec_from_file_location("leaks", ROOT / "tests" / "leaks.py")
    assert spec is not None
    assert spec.loader is not None
    leaks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaks)
    return leaks.leaks(places, canaries)  # type: ignore[no-any-return]


def outside(bed: Testbed, capture: Capture | None) -> dict[str, bytes]:
    """All files of the coordinator, and the capture."""
    places = {
        str(path.relative_to(bed.workspace)): path.read_bytes()
        for path in bed.workspace.rglob("*")
        if path.is_file()
    }
    if capture is not None:
        places["capture"] = bytes(capture.data)
    return places


def run(folder: Path, rounds: int, prefix: str | None) -> int:
    """One training over three sites, and the summary."""
    from datetime import datetime

    rows: list[tuple[str, str]] = []
    masked = ["aggregation.protection=masks", "federation.deadline_seconds=300"]
    capture = Capture([f"c{n}" for n, _ in enumerate(SITES, start=1)]) if prefix else None
    with Testbed(folder, rounds=rounds, changes=masked, namespaces=prefix) as bed:
        canaries = bed.canaries()
        began = time.time()
        bed.enrol(say=lambda text: print(text, flush=True))
        rows.append(("three sites joined after", f"{time.time() - began:.0f} s"))
        if prefix:
            others = [f"{ADDRESS}:{port}" for port in (8080, 5432, 22, 8793)]
            others += [f"{NET}.2.2:22", "1.1.1.1:443"]
            found = probe(bed, SITES[0], [f"{ADDRESS}:{bed.port}", *others])
            reached = [target for target, state in found.items() if state == "open"]
            rows.append(("a site reaches", ", ".join(reached)))
        print("training", flush=True)
        done = bed.train()
        rows.append(("DAG run", f"{done['state']}, {done['seconds']:.0f} s"))
        ends = {
            name: datetime.fromisoformat(task["end_date"]).timestamp()
            for name, task in done["tasks"].items()
            if task["end_date"]
        }
        closed = sorted(t for n, t in ends.items() if ".aggregate" in n or n == "initialise")
        if len(closed) > 1:
            each = (closed[-1] - closed[0]) / (len(closed) - 1)
            rows.append(("seconds a round", f"{each:.1f} over {len(closed) - 1} rounds"))
        at_sites = [t for n, t in done["tasks"].items() if "clinic" in n]
        rows.append(
            (
                "site tasks",
                f"{sum(t['state'] == 'success' for t in at_sites)} of {len(at_sites)} well",
            )
        )
        bed.command("coordinator", "revoke", SITES[0])
        home = bed.command("doctor", "--json", "--site", SITES[0], site=SITES[0], check=False)
        refused = "does not know this site" in home
        rows.append(("revoked site is refused", "yes" if refused else "NO"))
    places = outside(bed, capture)
    if capture is not None:
        capture.stop()
        rows.append(
            ("packets captured", f"{capture.packets}, {len(capture.data) / 1e6:.1f} MB (TLS)")
        )
        rows.append(("ports that sites asked for", ", ".join(map(str, sorted(capture.ports)))))
    leaked = search(places, canaries)
    rows.append(
        (
            "files searched for canaries",
            f"{len(places)}, {sum(map(len, places.values())) / 1e6:.0f} MB",
        )
    )
    rows.append(("canaries found", ", ".join(leaked) or "none"))
    name = next(iter(canaries.values()))
    blind = [
        place
        for place in places
        if not search({place: places[place] + str(name).encode()}, {"x": name})
    ][:3]
    rows.append(("places where the search is blind", ", ".join(blind) or "none"))
    apart = "network namespaces, links and routes" if prefix else "NOTHING BUT FOLDERS: loopback"
    rows.append(("sites are kept apart by", f"{apart}; one user for all"))
    print()
    for what, value in rows:
        print(f"{what:36} {value}")
    good = done["state"] == "success" and not leaked and not blind and refused
    if prefix and capture is not None:
        good = good and capture.ports == {bed.port} | {8080, 5432, 22, 8793}
    print("\nThe federation works." if good else "\nSOMETHING IS WRONG: see above.")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/federation"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run(options.folder, options.rounds, options.inside)
    why = "asked for" if options.loopback else possible()
    if why:
        print(f"Without network namespaces ({why}): all sites share the loopback.")
        return run(options.folder, options.rounds, None)
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.federation", "--inside", prefix]
        command += ["--folder", str(options.folder), "--rounds", str(options.rounds)]
        done = subprocess.run(["ip", "netns", "exec", f"{prefix}-c", *command], check=False)
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
