from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.params import load_params, parse_params
from folkmoot.sections import load_yaml


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "1.e-06", ".1e-5", "0.000001"])
def test_numbers_with_an_exponent(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 1e-6 as text; people, DVC and YAML 1.2 read it as a number."""
    path = tmp_path / "params.yaml"
    path.write_text(f"privacy:\n  delta: {text}\n")
    assert load_params(path).privacy.delta == pytest.approx(1e-6)
    assert parse_params({}, [f"privacy.delta={text}"]).privacy.delta == pytest.approx(1e-6)


def test_text_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("a: e-6\nb: '1e-6'\nc: 1e\nd: 1e5x\ne: 12\n")
    assert load_yaml(path) == {"a": "e-6", "b": "1e-6", "c": "1e", "d": "1e5x", "e": 12}
