"""The verbs of `tuneloop runs`: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import Invoke
from tests.history.trees import write_manifest, write_run


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    root = str(tmp_path / "artifacts")
    write_run(root, "letters-00000001")
    write_run(root, "letters-00000002", ["export"], dataset="a-long-name-of-a-dataset-v12")
    write_manifest(root, "\x1b[31mred")
    return root


@pytest.mark.parametrize("columns", ["80", "140"])
def test_a_list_fits_the_terminal(
    tuneloop: Invoke, artifacts: str, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = tuneloop("runs", "list", "--artifacts", artifacts)
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "\x1b" not in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert any(row.startswith("letters-00000001 finished") for row in rows)
    assert "25.0 → 75.0 %" in out
    assert "a-long-name-of-a-dataset-v12" in out
    assert "random gemma3" in out


def test_a_list_for_programs(tuneloop: Invoke, artifacts: str) -> None:
    code, out, _ = tuneloop(
        *("runs", "list", "--artifacts", artifacts, "--state", "finished", "--json")
    )
    (run,) = json.loads(out)["runs"]
    assert (code, run["run_id"], run["started_at"]) == (
        0,
        "letters-00000001",
        "2026-11-22T11:22:33+00:00",
    )


def test_nothing_to_list(tuneloop: Invoke, tmp_path: Path) -> None:
    code, out, err = tuneloop("runs", "list", "--artifacts", str(tmp_path / "never was"))
    assert (code, out) == (0, "")
    assert "no runs found below" in err


def test_an_unknown_order_or_time_is_a_sentence(tuneloop: Invoke, artifacts: str) -> None:
    for option, value in (("--sort", "size"), ("--since", "soon")):
        code, _, err = tuneloop("runs", "list", "--artifacts", artifacts, option, value)
        assert code == 2
        assert f"found '{value}'" in err or f"'{value}': expected" in err
