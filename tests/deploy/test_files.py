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

from folkmoot.params import parse_params
from folkmoot.sections import parse
from pipelines.guard.settings import EDGE
from pipelines.hosts.airflow_coordinator import Coordinator
from pipelines.hosts.airflow_coordinator_settings import oldest_worker
from pipelines.hosts.airflow_launch import COMMANDS, MLFLOW, OPTIONAL, SITES
from pipelines.hosts.airflow_services import Services
from pipelines.hosts.server_settings import ServerSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE, VALUES = DEPLOY / "compose" / "compose.yaml", DEPLOY / "helm" / "values.yaml"
SERVICES = {SITES, *COMMANDS, *OPTIONAL, MLFLOW}
SERVE = ["folkmoot", "coordinator", "serve"]
USER = 10001


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
        if "serve" in command:
            assert command[:3] == SERVE, name
            assert command[3] in SERVICES, name
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
    served = {
        s["command"][3] for s in found["services"].values() if "serve" in s.get("command", ())
    }
    assert served == SERVICES, "every service has its container"
    assert open_ports == ["8443:8443"]
    assert "PASSWORD=" not in COMPOSE.read_text()


def test_services_that_call_others_have_a_way_out() -> None:
    """Notifiers, an exchange store on S3 and a collector of metrics are outside; databases are not."""
    found = compose()
    assert found["networks"]["inside"]["internal"] is True
    outside = {n for n, s in found["services"].items() if "outside" in s["networks"]}
    assert outside == set(found["services"]) - {"postgres", "configure"}
    assert all("inside" in s["networks"] for s in found["services"].values())


def dockerfile() -> list[tuple[str, str]]:
    """Instructions with their arguments, continued lines joined."""
    text = (DEPLOY / "compose" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return [(name, " ".join(rest.split())) for name, _, rest in lines if name]


def test_the_image_runs_what_it_is_given(tmp_path: Path) -> None:
    """The chart's pods say `bash -c "exec airflow …"`, its probes `/entrypoint airflow …`."""
    found = dict(dockerfile())
    assert json.loads(found["ENTRYPOINT"]) == ["/entrypoint"]
    assert any("install -m 755 deploy/compose/entrypoint /entrypoint" in r for _, r in dockerfile())
    program = tmp_path / "entrypoint"
    shutil.copy(DEPLOY / "compose" / "entrypoint", program)
    program.chmod(0o755)
    given = ["bash", "-c", 'exec echo "$@"', "--", "two words", "$HOME"]
    done = subprocess.run([program, *given], capture_output=True, text=True, check=True)
    assert done.stdout == "two words $HOME\n"
    assert subprocess.run([program, "false"], check=False).returncode == 1
    # So everybody else names the program.
    for name, service in compose()["services"].items():
        if service["image"] == "folkmoot":
            assert "entrypoint" not in service, name
            assert service["command"][0] in {"folkmoot", "sh"}, name
    for container in containers():
        assert container["command"][0] in {"folkmoot", "sh"}, container["name"]
        assert container["command"][:3] == SERVE or container["name"] == "configure"


def test_the_image_has_one_user_everywhere() -> None:
    """Who owns the volume's files reads and writes them in every pod and container."""
    every = dockerfile()
    assert [rest for name, rest in every if name == "USER"] == [f"{USER}:{USER}"]
    made = " ".join(rest for name, rest in every if name == "RUN")
    assert f"groupadd --gid {USER} " in made
    assert f"useradd --uid {USER} --gid {USER} " in made
    values = yaml.safe_load(VALUES.read_text())
    assert (values["uid"], values["gid"]) == (USER, USER)
    for pod in pods():
        assert pod["securityContext"]["runAsUser"] == USER
        assert pod["securityContext"]["fsGroup"] == USER


def test_the_image_has_no_tools_of_development() -> None:
    installed = [r for name, r in dockerfile() if name == "RUN" and "requirements/" in r]
    lists = re.findall(r"requirements/[a-z]+\.txt", " ".join(installed))
    names = {
        line.partition("==")[0]
        for file in lists
        for line in (ROOT / file).read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    }
    assert {"apache-airflow", "mlflow", "psycopg2-binary", "s3fs", "uv", "hatchling"} <= names
    assert not {"pytest", "moto", "playwright", "schemathesis", "ruff", "mypy"} & names


def excluded(path: str) -> bool:
    """Whether .dockerignore keeps ``path`` from the image; the last pattern that matches decides.

    As Docker reads it: a pattern is anchored at the root, and matches what lies below a folder, too.
    """
    found = False
    parts = path.split("/")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        above = ("/".join(parts[:n]) for n in range(1, len(parts) + 1))
        if any(re.fullmatch(wanted, folder) for folder in above):
            found = not line.startswith("!")
    return found


@pytest.mark.parametrize(
    "path",
    [
        "deploy/compose/secrets/airflow-database",
        "deploy/compose/params.yaml",
        ".folkmoot/coordinator/guard/tasks.pem",
        ".venv/bin/python",
        ".git/config",
        "trial.key",
        "folkmoot/trial.key",
        "site_tasks/private/trial.key",
        "clinic-a/private/key.pem",
        "pipelines/private/ledger.json",
        "dags/.folkmoot/sites/clinic-a/site.toml",
        "folkmoot/secrets/password",
        "rows.parquet",
        "workspace-of-another-name/exchange/trial",
        "folkmoot/__pycache__/plan.cpython-311.pyc",
    ],
)
def test_the_image_takes_no_secrets(path: str) -> None:
    assert ("COPY", ". .") in dockerfile()
    assert excluded(path)


def test_the_image_takes_the_code() -> None:
    for folder in ("folkmoot", "pipelines", "site_tasks", "dags", "plugins"):
        for file in (ROOT / folder).rglob("*.py"):
            assert not excluded(str(file.relative_to(ROOT))), file
    for name in ("pyproject.toml", "README.md", "LICENSE", "deploy/compose/entrypoint"):
        assert (ROOT / name).is_file()
        assert not excluded(name), name
    for name in re.findall(
        r"requirements/[a-z]+\.txt", (DEPLOY / "compose/Dockerfile").read_text()
    ):
        assert (ROOT / name).is_file()
        assert not excluded(name), name


def test_secrets_of_the_compose_file_are_not_committed() -> None:
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    files = [secret["file"] for secret in compose()["secrets"].values()]
    assert all(file.startswith("./secrets/") for file in files)


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


def test_the_charts_airflow_is_set_as_any_coordinators(tmp_path: Path) -> None:
    """What a coordinator's `airflow.cfg` says, the values say; but for secrets and the machine's own."""
    source = tomllib.loads((DEPLOY / "helm" / "server.toml").read_text())
    files = {"certificate", "key", "database", "mlflow_database"}
    settings = ServerSettings(**{k: v for k, v in source.items() if k not in files})
    coordinator = Coordinator(parse_params({}), tmp_path, settings)
    wanted = coordinator._settings()
    del wanted["database"], wanted["core"]["fernet_key"], wanted["api"]["secret_key"]
    wanted = {name: options for name, options in wanted.items() if name in described()}
    for key in ("host", "port", "base_url"):  # the chart's own
        del wanted["api"][key]
    for key in ("parallelism", "max_active_tasks_per_dag"):  # by the machine's cores
        del wanted["core"][key]
    values = yaml.safe_load(VALUES.read_text())
    given = {section: dict(options) for section, options in values["config"].items()}
    given["core"]["executor"] = values["executor"]
    wanted["core"]["executor"] = wanted["core"]["executor"].replace(" ", "")
    places = {str(tmp_path): "/var/lib/folkmoot", str(ROOT): "/opt/folkmoot"}
    for section, options in wanted.items():
        for key, value in options.items():
            for here, there in places.items():
                value = value.replace(here, there)
            if key == "execution_api_server_url":
                value = f"{settings.task_url}/execution/"
            assert given[section].get(key) == value, (section, key)
    # Off; and whoever switches it on finds the rest as `otel` of server.toml has it.
    metrics = given["metrics"]
    assert metrics["otel_on"] == "False"
    address = f"http://{metrics['otel_host']}:{metrics['otel_port']}"
    assert ServerSettings(otel=address).telemetry() == {**metrics, "otel_on": "True"}


def test_the_chart_starts_nothing_that_the_image_lacks() -> None:
    values = yaml.safe_load(VALUES.read_text())
    for part in ("scheduler", "dagProcessor", "triggerer"):
        assert values[part]["logGroomerSidecar"] == {"enabled": False}, part
    assert "Celery" not in values["executor"], "its workers have a log groomer, too"
    # Late and failed runs: nobody is told until somebody is named.
    environment = {entry["name"]: entry["value"] for entry in values["env"]}
    assert environment["FOLKMOOT_NOTIFY"] == ""
    mounted = {mount["name"] for mount in values["volumeMounts"]}
    assert mounted == {volume["name"] for volume in values["volumes"]}


def test_every_secret_and_setting_has_a_command() -> None:
    """What values and manifest name is made by a command at the manifest's head, or is optional."""
    values = yaml.safe_load(VALUES.read_text())
    named = {
        values["data"]["metadataSecretName"],
        values["fernetKeySecretName"],
        values["apiSecretKeySecretName"],
    }
    for volume in [*values["volumes"], *(v for pod in pods() for v in pod["volumes"])]:
        secret = volume.get("secret", {})
        named |= {secret.get("secretName"), volume.get("configMap", {}).get("name")}
        named -= {secret["secretName"]} if secret.get("optional") else {None}
    head = (DEPLOY / "helm" / "folkmoot.yaml").read_text().partition("apiVersion")[0]
    head = re.sub(r"\\\n#", " ", head)
    made = set(re.findall(r"create (?:secret (?:generic|tls)|configmap) +([a-z-]+)", head))
    assert made == named - {None}
    for key in ("connection=", "fernet-key=", "api-secret-key="):
        assert f"--from-file={key}" in head, "as the chart calls it"


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


def pods() -> list[dict[str, Any]]:
    return [m["spec"]["template"]["spec"] for m in manifests() if "template" in m["spec"]]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods() for container in pod["containers"]]


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
