"""Killed at random moments of a whole training; ``benchmarks/crash.py`` does it 500 times."""

from __future__ import annotations

import random

import pytest


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again() -> None:
    from benchmarks.crash import crash

    tally = crash(8, random.Random())
    assert tally.kills >= 8
    assert (tally.double_noise, tally.lost, tally.doubled) == (0, 0, 0)
    assert len(tally.digests) == 1
