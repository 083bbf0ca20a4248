"""Late runs and their sites, told by the notifiers of the configuration."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import ConfigError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from pipelines.hosts.server_settings import ServerSettings, load_settings


@dataclass
class Run:
    """As much of a run as is asked."""

    store: ExchangeStore
    params: Params

    def key(self, key: str) -> str:
        return f"demo/runs/r/{key}"


def test_late_are_the_sites_that_published_nothing_in_the_stage(tmp_path: Path) -> None:
    from pipelines.hosts.airflow_notify import late_sites

    params = parse_params({"federation": {"sites": ["a", "b"]}, "model": {"linear": {"rounds": 2}}})
    run: Any = Run(ExchangeStore(tmp_path), params)

    def put(key: str, data: bytes = b"x") -> None:
        run.store.put(run.key(key), data)

    put(keys.statistics("a"))
    assert late_sites(run) == ("round-000", ["b"])
    put(keys.model(0))
    put(keys.update(1, "b"))
    assert late_sites(run) == ("round-001", ["a"])
    put(keys.record(1), b'{"stop": null}')
    assert late_sites(run) == ("round-002", ["a", "b"])
    put(keys.record(2), b'{"stop": null}')
    assert late_sites(run)[0] == "final"


def test_notifiers_of_the_settings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = tmp_path / "hook"
    url.write_text(f"http://127.0.0.1:{server.server_port}/secret-path\n")
    url.chmod(0o600)
    name = "pipelines.hosts.airflow_notify.Webhook"
    told = {"late_after_seconds": 5, "notifiers": {name: {"url": f"file:{url}"}}}
    settings = load_settings(tmp_path, told)
    assert load_settings(tmp_path) == settings, "the file gives back what was set"
    from pipelines.hosts import airflow_notify
    from pipelines.hosts.airflow_coordinator import Coordinator

    coordinator = Coordinator(parse_params({}), tmp_path, settings)
    for key in ("FOLKMOOT_NOTIFY", "FOLKMOOT_PARAMS", "FOLKMOOT_ROOT", "FOLKMOOT_WORKSPACE"):
        monkeypatch.setenv(key, coordinator._environment[key])
    given = airflow_notify.alerts()
    assert given["deadline"].interval.total_seconds() == 5
    assert given["deadline"].callback.path.endswith("airflow_notify.run_is_late")
    # A run that was never opened: told all the same, with why there is no more to tell.
    run = {"dag_id": "federated_linear", "dag_run_id": "manual__1"}
    airflow_notify.run_is_late(context={"dag_run": run})
    given["on_failure_callback"][0].notify({"dag_run": None})
    server.shutdown()
    assert got[0]["late"] is True
    assert got[0]["dag_run"] == "manual__1"
    assert got[0]["note"].startswith(("protocol.", "transient."))
    assert got[1]["late"] is False


@pytest.mark.parametrize(
    "values",
    [{"statsd": "nowhere"}, {"otel": "host:4318"}, {"statsd": "h:1", "otel": "http://h:2"}],
)
def test_a_faulty_address_of_metrics_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="one address"):
        ServerSettings(**values).check()  # type: ignore[arg-type]


def test_airflows_metrics_go_where_the_settings_say() -> None:
    told = ServerSettings(otel="https://collector:4318").telemetry()
    assert (told["otel_host"], told["otel_port"], told["otel_ssl_active"]) == (
        "collector",
        "4318",
        "True",
    )
