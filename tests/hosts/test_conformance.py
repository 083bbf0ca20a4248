"""One plan, three hosts: every update, every global model and every ledger entry is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import ProtocolError
from folkmoot.params import Params, parse_params
from folkmoot.privacy.ledger import Ledger
from folkmoot.wire import digest

RUN = "conformance"


def settings(kind: str) -> Params:
    """Seeded noise, so that even what is drawn can be compared; the sites permit it here."""
    noisy: dict[str, Any] = {
        "federation": {"sites": ["site-a", "site-b", "site-c"], "quorum": 2},
        "data": {"scaling": "bounds", "holdout": {"by": "content"}},
        "model": {"linear": {"strategy": "private", "rounds": 3}},
        "privacy": {
            "mechanism": "gaussian",
            "clipping": "record",
            "epsilon": 8.0,
            "rows": 426,
            "evaluation": "noised",
            "seeded": True,
        },
        "aggregation": {"weighting": "uniform", "evaluate_every": 0},
        "tracking": {"enabled": False, "baselines": False},
    }
    trees: dict[str, Any] = {
        "federation": {"sites": ["site-a", "site-b"]},
        "data": {"recipe": "synthetic", "rows": 600},
        # Two exchanges of one tree; the second needs what the first one summed.
        "model": {
            "kind": "trees",
            "trees": {
                "strategy": "summed_histograms",
                "rounds": 1,
                "max_depth": 2,
                "bin_edges": "bounds",
            },
        },
        # The sites settle on one schema first, then recode, verify and report.
        "anonymisation": {"recoding": "agreed", "k": 5, "suppression_limit": 1.0},
        "tracking": {"enabled": False, "baselines": False},
    }
    return parse_params(noisy if kind == "linear" else trees)


def embedded(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.embedded import run

    return run(params, run=RUN, workspace=workspace)


def dvc(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.dvc import run

    said: list[str] = []
    result = run(params, run=RUN, workspace=workspace, say=said.append)
    assert any(line.startswith("Round 2 of ") for line in said)
    tracking = params.tracking.model_copy(update={"model_name": "other"})
    other = params.model_copy(update={"tracking": tracking})
    with pytest.raises(ProtocolError, match="other params"):
        run(other, run=RUN, workspace=workspace)
    return result


def airflow(params: Params, workspace: Path) -> dict[str, Any]:
    from pipelines.hosts.airflow_run import run

    return run(params, run=RUN, workspace=workspace)


def published(workspace: Path) -> dict[str, str]:
    root = workspace / "exchange" / "demo" / "runs" / RUN
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): digest(p.read_bytes()) for p in sorted(files)}


def ledgers(workspace: Path) -> dict[str, list[str]]:
    """Content digests of all entries, by site, after the chain was verified."""
    found = {}
    for home in sorted((workspace / "sites").glob("site-*")):
        ledger = Ledger(home / "private" / "ledger.sqlite", home.name)
        assert ledger.verify() > 1
        found[home.name] = [entry.digest for entry in ledger.entries()]
        ledger.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_three_hosts_agree_digest_for_digest(kind: str, workspace_of: Callable[..., Path]) -> None:
    params = settings(kind)
    expected: tuple[Any, ...] | None = None
    for host in (embedded, dvc, airflow):
        workspace = workspace_of(params, host.__name__)
        result = host(params, workspace)
        seconds = result.pop("seconds")
        keys = published(workspace)
        updates = {key: keys[key] for key in keys if "/update-" in key}
        if kind == "trees":  # DVC keeps the sums of a finished tree, which are its outputs
            assert len(updates) == (4 if host is dvc else 0)
            keys = {key: keys[key] for key in keys.keys() - updates.keys()}
        assert updates or kind == "trees"
        found = (keys, ledgers(workspace), result, set(seconds))
        assert ("round-000/schema.json" in found[0]) == (kind == "trees")
        expected = expected or found
        assert found[0] == expected[0], host.__name__
        assert found[1] == expected[1], host.__name__
        if host is dvc:
            assert found[2:] == expected[2:]
        assert result["model_digest"] == expected[2]["model_digest"], host.__name__
