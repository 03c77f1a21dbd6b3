from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.evaluation.gates.baselines import current, promote, versions


def test_the_newest_version_counts_and_the_same_model_adds_none(tmp_path: Path) -> None:
    url = str(tmp_path)
    first = promote(url, "main", run_id="r-1", digest="a")
    assert (first.number, current(url, "main")) == (1, first)
    assert promote(url, "main", run_id="r-2", digest="a") == first
    second = promote(url, "main", run_id="r-3", digest="b")
    assert (second.number, current(url, "main")) == (2, second)
    assert promote(url, "main", run_id="r-1", digest="a").number == 3  # back to the first model
    assert [one.run_id for one in versions(url, "main")] == ["r-1", "r-3", "r-1"]


def test_what_is_no_baseline_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="expected the baseline main; make one with"):
        current(str(tmp_path), "main")
    for name in ("", "../x", "A", "é", "x" * 64):
        with pytest.raises(UsageError, match="expected lower-case letters"):
            promote(str(tmp_path), name, run_id="r", digest="a")
    promote(str(tmp_path), "main", run_id="r", digest="a")
    (file,) = tmp_path.glob("baselines/main/000001.json")
    file.write_bytes(b"{")
    with pytest.raises(DataError, match="not a version of a baseline"):
        current(str(tmp_path), "main")
