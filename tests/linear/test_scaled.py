"""Scaled rows: in memory and streamed they are the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from site_tasks import scaled
from site_tasks.scaled import ScaledRows

RNG = np.random.default_rng(3)
MATRIX = RNG.normal(3.0, 2.0, (1000, 6))
MATRIX[::7, 2] = np.nan
LABELS = np.arange(1000)
MEAN, SCALE = np.nanmean(MATRIX, axis=0), np.nanstd(MATRIX, axis=0)
EXPECTED = np.nan_to_num((MATRIX - MEAN) / SCALE, nan=0.0)


@pytest.fixture(params=["kept", "streamed", "float32 file"])
def rows(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScaledRows:
    matrix = MATRIX
    if request.param != "kept":
        monkeypatch.setattr(scaled, "KEEP_BYTES", 0)
        monkeypatch.setattr(scaled, "CHUNK_BYTES", 300 * 6 * 8)
        monkeypatch.setattr(scaled, "BLOCK_BYTES", 300 * 6 * 8)
        kind = np.float32 if request.param == "float32 file" else np.float64
        np.save(tmp_path / "train.npy", MATRIX.astype(kind))
        matrix = np.load(tmp_path / "train.npy", mmap_mode="r")
    return ScaledRows(matrix, LABELS, None, MEAN, SCALE)


def test_chunks_are_the_scaled_rows_in_order(rows: ScaledRows) -> None:
    chunks = list(rows.chunks())
    x = np.concatenate([x for x, _, _ in chunks])
    assert x.dtype == np.float64
    np.testing.assert_allclose(x, EXPECTED, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in chunks]), LABELS)


def test_a_pass_meets_every_row_once_in_an_order_that_the_seed_fixes(rows: ScaledRows) -> None:
    def order(seed: int) -> np.ndarray:
        found = [(x, y) for x, y, _ in rows.batches(np.random.default_rng(seed), 64)]
        assert sorted(len(y) for _, y in found) == [1000 % 64, *[64] * (1000 // 64)]
        for x, y in found:  # a row keeps its label
            np.testing.assert_allclose(x, EXPECTED[y], atol=1e-6)
        return np.concatenate([y for _, y in found])

    first = order(1)
    np.testing.assert_array_equal(np.sort(first), LABELS)
    np.testing.assert_array_equal(first, order(1))
    assert (first != order(2)).any()
    assert (first != LABELS).any()


def test_batches_do_not_change_the_kept_rows() -> None:
    rows = ScaledRows(MATRIX, LABELS, None, MEAN, SCALE)
    for x, _, _ in rows.batches(np.random.default_rng(0), 100):
        x[:] = 0.0
    np.testing.assert_allclose(next(iter(rows.chunks()))[0], EXPECTED)


def test_weights_follow_their_rows() -> None:
    weights = np.linspace(0.5, 2.0, 1000)
    rows = ScaledRows(MATRIX, LABELS, weights, MEAN, SCALE)
    assert rows.weight == pytest.approx(weights.sum())
    for _, y, w in rows.batches(np.random.default_rng(0), 64):
        np.testing.assert_array_equal(w, weights[y])
