"""Formatting of texts on web pages."""

from __future__ import annotations

import pytest

from tuneloop.store.web import render


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
