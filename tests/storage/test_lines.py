from __future__ import annotations

import itertools

import pytest

from tuneloop.errors import DataError
from tuneloop.storage import lines


def test_a_file_without_line_ends_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_LINE_BYTES", "5000000")
    said = r"^d/x\.jsonl: has a line of more than 5,000,000 bytes, .*TUNELOOP_LIMIT_LINE_BYTES$"
    endless = itertools.repeat(b"x" * (1 << 20))
    with pytest.raises(DataError, match=said):
        next(lines.iter_lines(endless, "d/x.jsonl"))
    with pytest.raises(DataError, match=said):
        next(lines.iter_line_blocks(endless, place="d/x.jsonl"))
