"""Sites alone and pooled rows: for every recipe, the user's own file too, and never on real sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from folkmoot.errors import ConfigError
from folkmoot.params import Params, parse_params
from pipelines.baselines import baselines
from pipelines.conclusion import conclude_locally
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context, store_of
from site_tasks.home import SiteHome
from site_tasks.settings import save_settings


@pytest.fixture
def own_csv(tmp_path: Path) -> Params:
    """Params over a CSV file of the user's own, dealt to two sites."""
    (tmp_path / "contract.yaml").write_text(
        "name: own\ntask: binary\ncolumns:\n"
        "  - {name: x, bounds: [-5, 5]}\n"
        "  - {name: y, role: label, type: category, categories: ['0', '1']}\n"
    )
    random = np.random.default_rng(0)
    x = random.normal(size=200).clip(-5, 5)
    y = (x + random.normal(size=200) > 0).astype(int)
    rows = "".join(f"{a:.3f},{b}\n" for a, b in zip(x, y, strict=True))
    (tmp_path / "rows.csv").write_text("x,y\n" + rows)
    return parse_params(
        {
            "federation": {"sites": ["a", "b"]},
            "data": {
                "recipe": "csv",
                "path": str(tmp_path / "rows.csv"),
                "contract": str(tmp_path / "contract.yaml"),
            },
            "tracking": {"enabled": False},
        }
    )


def test_own_files_are_compared_and_real_sites_are_not(own_csv: Params, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    result = run(own_csv, run="one", workspace=workspace)
    compared = conclude_locally(own_csv, result, workspace=workspace)["baselines"]
    assert set(compared["alone"]) == {"a", "b"}
    pooled = compared["pooled"]["overall"]["auc"]
    assert pooled == pytest.approx(result["metrics"]["overall"]["auc"], abs=0.01)

    home = SiteHome.find("a", workspace)
    real = home.settings.model_copy(update={"simulated": False})
    save_settings(real, home.root / "site.toml")
    assert conclude_locally(own_csv, result, workspace=workspace)["baselines"] is None
    context = open_context("one", "demo", store_of(own_csv, workspace), workspace)
    with pytest.raises(ConfigError, match="rows of real sites"):
        baselines(context, ["a", "b"])
