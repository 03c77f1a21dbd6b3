"""Formatting of texts, sizes and durations on web pages."""

from __future__ import annotations

import pytest

from tuneloop.store.web import render


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
    assert render.duration(seconds) == said


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
    assert render.size(size_bytes) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a  b\nc", "a b c"),
        ("abcdefghijk", "abcdefghi…"),
        (" ", "(blank)"),
        ("\u200b\u2060", "(blank)"),
        ("x" * 10, "x" * 10),
        ("a" + " " * 60 + "b", "a…"),
    ],
)
def test_beginning(text: str, said: str) -> None:
    assert render.beginning(text, 10) == said
