"""Formatting of sizes and durations."""

from __future__ import annotations

import pytest

from tuneloop.history import units


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0491, "0.05 s"),
        (18.63, "18.6 s"),
        (200.4, "3 min 20 s"),
        (7530, "2 h 05 min"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
        (-1, "unknown"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert units.duration(seconds) == said


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (33_144, "33.1 kB"),
        (999_999, "1.0 MB"),
        (12 * 10**14, "1200.0 TB"),
    ],
)
def test_size(size_bytes: int, said: str) -> None:
    assert units.size(size_bytes) == said
