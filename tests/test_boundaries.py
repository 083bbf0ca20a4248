"""Who may know whom: a site without the coordinator's packages, and light imports where it counts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import PACKAGES, ROOT, modules, source, tree

BLOCK = """
import sys

class Absent:
    def __init__(self, names):
        self.names = names
    def find_spec(self, name, path=None, target=None):
        if any(name == n or name.startswith(n + ".") for n in self.names):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent(sys.argv[1].split(",")))
"""


def python(code: str, absent: str = "none") -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code, absent],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(package: str) -> list[str]:
    """Names of a package's modules."""
    return [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in modules(package)
    ]


def test_a_site_needs_nothing_of_the_coordinator() -> None:
    code = "import importlib\n" + "".join(
        f"importlib.import_module({name!r})\n" for name in names("site_tasks")
    )
    python(code, "mlflow,airflow,pipelines.coordinator,matplotlib")


def test_a_site_trains_where_the_coordinator_is_not_installed(tmp_path: Path) -> None:
    """Preparation and a round at one site, with run.json and model made elsewhere before."""
    workspace = tmp_path / "workspace"
    opened = f"""
from pathlib import Path
from folkmoot.params import parse_params
from pipelines.hosts.embedded import run
run(parse_params({{"tracking": {{"enabled": False}}, "model": {{"linear": {{"rounds": 1}}}}}}),
    run="r", workspace=Path({str(workspace)!r}))
for path in Path({str(workspace / "exchange")!r}).glob("*/runs/*/round-001/*"):
    path.unlink()
"""
    python(opened)
    train = f"""
from pathlib import Path
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import Step, keys
from pipelines.hosts.execute import execute, open_context
w = Path({str(workspace)!r})
context = open_context("r", "demo", ExchangeStore(w / "exchange"), w)
name, out = "round-001/train/site-a", (keys.update(1, "site-a"),)
step = Step(name, "site.train_linear", "site-a", 1, outputs=out)
print(execute(step, context)[0].key)
"""
    out = python(train, "mlflow,airflow,pipelines.coordinator,matplotlib")
    assert out.strip() == "demo/runs/r/round-001/update-site-a"


HEAVY = [
    "pandas",
    "sklearn",
    "scipy",
    "xgboost",
    "mlflow",
    "dvc",
    "pandera",
    "pyarrow",
    "matplotlib",
]


LIGHT = [
    "folkmoot.cli.app",
    "pipelines.plans",
    "pipelines.hosts.embedded",
    "pipelines.hosts.execute",
    "pipelines.coordinator.close_round",
    "pipelines.coordinator.close_run",
    "pipelines.coordinator.aggregate.newton",
    "pipelines.coordinator.aggregate.trees",
    "site_tasks.train_linear",
    "site_tasks.evaluate",
    "site_tasks.release",
    "site_tasks.prepare",
]


def test_what_every_task_loads_is_light() -> None:
    """All in one interpreter: what together load nothing heavy load nothing heavy alone."""
    code = f"""
import importlib, json
for name in {LIGHT!r}:
    importlib.import_module(name)
    print(json.dumps([name, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""
    found = [json.loads(line) for line in python(code).splitlines()]
    assert found == [[name, []] for name in LIGHT]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_and_keeps_its_promises(package: str) -> None:
    """A docstring per module; every name in ``__all__`` exists."""
    for path in modules(package):
        module = tree(path)
        assert ast.get_docstring(module), f"{path} has no docstring"
        defined: set[str] = set()
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                defined |= {alias.asname or alias.name for alias in node.names}
            else:
                found = (n for n in ast.walk(node) if isinstance(n, ast.Name))
                defined |= {n.id for n in found if isinstance(n.ctx, ast.Store)}
        for node in module.body:
            is_all = (
                isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
            )
            if is_all:
                assert set(ast.literal_eval(node.value)) <= defined, path  # type: ignore[attr-defined]


UNSAFE = ("pickle", "joblib", "cloudpickle", "marshal", "shelve", "dill")


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_unpickled(package: str) -> None:
    for path in modules(package):
        assert not {name.split(".")[0] for name, _ in source(path).imports} & set(UNSAFE), path


def test_every_declared_error_is_raised_somewhere() -> None:
    """(An undeclared one cannot be made: the constructor refuses it.)"""
    from folkmoot.errors import CODES

    source = "".join(
        path.read_text(encoding="utf-8")
        for package in ("folkmoot", "site_tasks", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "errors.py"
    )
    assert [code for code in CODES if f'"{code}"' not in source] == []
