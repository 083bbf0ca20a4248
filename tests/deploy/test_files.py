"""The files of deploy/, as far as a machine without a container engine can check them."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from folkmoot.sections import parse
from pipelines.guard.settings import EDGE
from pipelines.hosts.airflow_coordinator_settings import oldest_worker
from pipelines.hosts.airflow_launch import COMMANDS, MLFLOW, OPTIONAL, SITES
from pipelines.hosts.airflow_services import Services
from pipelines.hosts.server_settings import ServerSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE, VALUES = DEPLOY / "compose" / "compose.yaml", DEPLOY / "helm" / "values.yaml"
SERVICES = {SITES, *COMMANDS, *OPTIONAL, MLFLOW}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def test_the_compose_file_follows_the_specification() -> None:
    """Against the schema of compose-spec, as check-jsonschema carries it."""
    carried = pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    import jsonschema

    folder = Path(carried.__file__).parent
    (path,) = folder.rglob("compose-spec.json")
    schema = json.loads(path.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [e.message for e in validator.iter_errors(compose())] == []
    wrong = compose()
    wrong["services"]["sites"]["portz"] = []
    assert list(validator.iter_errors(wrong)), "the schema finds a wrong key"


def test_the_compose_file_is_whole() -> None:
    """What services refer to is there, and one port alone is open to others than this machine."""
    found = compose()
    open_ports = []
    for name, service in found["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            named = source in found["volumes"] or source.startswith("./")
            assert named, (name, source)
        assert set(service.get("secrets", ())) <= set(found["secrets"]), name
        assert set(service.get("networks", ())) <= set(found["networks"]), name
        assert set(service.get("depends_on", ())) <= set(found["services"]), name
        open_ports += [p for p in service.get("ports", ()) if not p.startswith("127.0.0.1:")]
        command = service.get("command") or []
        if command[:2] == ["coordinator", "serve"]:
            assert command[2] in SERVICES, name
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
    served = {
        s["command"][2] for s in found["services"].values() if "serve" in s.get("command", ())
    }
    assert served == SERVICES, "every service has its container"
    assert open_ports == ["8443:8443"]
    assert "PASSWORD=" not in COMPOSE.read_text()


@pytest.mark.parametrize("name", ["compose", "helm"])
def test_settings_of_the_containers_are_valid(name: str) -> None:
    file = DEPLOY / name / "server.toml"
    settings = parse(ServerSettings, tomllib.loads(file.read_text()), source=str(file))
    assert settings.ui_port
    assert settings.task_port
    assert (settings.database or "").startswith("file:/run/secrets/"), "no secret in the file"
    assert (settings.mlflow_database or "").startswith("file:/run/secrets/")


def test_the_charts_configuration_is_airflows() -> None:
    """Every section and key that the values set exists in this Airflow, and the guard's are right."""
    values = yaml.safe_load(VALUES.read_text())
    known = airflow_options()
    for section, options in values["config"].items():
        assert set(options) <= known[section], (section, set(options) - known[section])
        assert all(isinstance(value, str) for value in options.values()), section
    assert EDGE.items() <= values["config"]["edge"].items()
    for part, package in (
        ("core", "apache-airflow-core"),
        ("edge", "apache-airflow-providers-edge3"),
    ):
        oldest = values["config"]["edge"][f"minimum_acceptable_{part}_version_for_workers"]
        assert oldest == oldest_worker(package)
    assert values["config"]["api_auth"]["jwt_algorithm"] == "EdDSA"
    assert "Edge" in values["executor"]
    # The chart's own choice needs a package that the image does not have.
    core = values["config"]["core"]
    assert core["auth_manager"] == described()["core"]["options"]["auth_manager"]["default"]
    services = Services(Path("/var/lib/folkmoot/airflow"), environment={})
    assert core["simple_auth_manager_passwords_file"] == str(services.passwords)
    assert values["webserver"]["defaultUser"]["enabled"] is False
    assert values["enableBuiltInSecretEnvVars"]["AIRFLOW__API_AUTH__JWT_SECRET"] is False


def described() -> dict[str, Any]:
    """Airflow's own description of its configuration, and the edge provider's."""
    import airflow
    from airflow.providers.edge3.get_provider_info import get_provider_info

    template = Path(airflow.__path__[0]) / "config_templates" / "config.yml"
    return {**yaml.safe_load(template.read_text()), **get_provider_info()["config"]}


def airflow_options() -> dict[str, set[str]]:
    """Section → keys."""
    found = {section: set(about["options"]) for section, about in described().items()}
    found["scheduler"].add(
        "num_stuck_in_queued_retries"
    )  # read by the scheduler, described nowhere
    return found


def manifests(folder: str = "helm/folkmoot.yaml") -> Iterator[dict[str, Any]]:
    found = yaml.safe_load((DEPLOY / folder).read_text())
    assert (found["apiVersion"], found["kind"]) == ("v1", "List")
    yield from found["items"]


def test_the_manifests_are_kubernetes() -> None:
    """Against the schemas of Kubernetes, as kubernetes-validate carries them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        validate = pytest.importorskip(
            "kubernetes_validate", reason="kubernetes-validate is not installed"
        )
    for manifest in manifests():
        validate.validate(manifest, "1.31", strict=True)
        wrong = {**manifest, "spec": {**manifest["spec"], "replicaz": 1}}
        with pytest.raises(validate.ValidationError):
            validate.validate(wrong, "1.31", strict=True)
    kinds = {m["metadata"]["name"]: m["kind"] for m in manifests() if m["kind"] == "Deployment"}
    assert kinds == {"folkmoot-sites": "Deployment", "folkmoot-mlflow": "Deployment"}


@pytest.mark.parametrize("unit", sorted(p.name for p in (DEPLOY / "systemd").iterdir()))
def test_units_are_verified(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        # Still: sections, and no key twice.
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.optionxform = str  # type: ignore[assignment,method-assign]
        config.read(DEPLOY / "systemd" / unit)
        assert config.has_option("Service", "ExecStart") or unit.endswith(".timer")
        pytest.skip("systemd-analyze is not installed: its own check is left out")
    # The program lies elsewhere on this machine: the rest of the unit is what is verified.
    program = tmp_path / "folkmoot"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for source in (DEPLOY / "systemd").iterdir():
        text = source.read_text().replace("/opt/folkmoot/.venv/bin/folkmoot", str(program))
        (tmp_path / source.name).write_text(text)
    target = unit.replace("@.", "@clinic-a.")
    if target != unit:
        os.symlink(tmp_path / unit, tmp_path / target)

    def verify() -> str:
        done = subprocess.run(
            [analyze, "verify", "--man=no", str(tmp_path / target)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        )
        return "\n".join(line for line in done.stderr.splitlines() if re.search("folkmoot", line))

    assert verify() == ""
    broken = (tmp_path / unit).read_text() + "\n[Service]\nProtectEverything=yes\n"
    (tmp_path / unit).write_text(broken)
    assert "ProtectEverything" in verify(), "the check finds a wrong key"
