"""The verbs of `tuneloop runs`: what they print, and their exit codes."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.builders import Invoke
from tests.history.trees import put, set_age, write_manifest, write_run


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


def test_show_compare_and_du_fit_the_terminal(
    tuneloop: Invoke, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    place = ("--artifacts", artifacts)
    for arguments, expected in (
        (("show", "letters-00000001"), "accuracy   25.0 % -> 75.0 %"),
        (("show", "\x1b[31mred"), "export not started"),
        (("compare", "letters-00000001", "letters-00000002"), "a-long-name-of-a-dataset-v12"),
        (("du",), "records and logs"),
        (("gc",), "nothing to delete"),
    ):
        code, out, _ = tuneloop("runs", *arguments, *place)
        assert (code, expected in out, "\x1b" in out) == (0, True, False), out
        code, out, _ = tuneloop("runs", *arguments, *place, "--json")
        assert code == 0
        assert json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "never-was"), 12, "never-was: missing, expected a run"),
        (("show", "../runs"), 2, "expected a name such as"),
        (("compare", "letters-00000001"), 2, "expected at least two"),
        (("compare", "letters-00000001", "a/b"), 2, "expected a name such as"),
        (("delete", "never-was", "--yes"), 12, "never-was: missing"),
        (("delete", "..", "--yes"), 12, "missing, expected a run"),
        (("gc", "--kind", "everything"), 2, "found 'everything', expected one of attempts"),
    ],
)
def test_errors_are_sentences(
    tuneloop: Invoke, artifacts: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = tuneloop("runs", *arguments, "--artifacts", artifacts)
    assert (found, said in err) == (code, True), err


def test_delete_asks_unless_it_is_told_not_to(
    tuneloop: Invoke, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(artifacts, "training_runs/letters-00000001")
    arguments = ("runs", "delete", "letters-00000001", "--artifacts", artifacts)
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code, _, err = tuneloop(*arguments)
        assert (code, folder.exists()) == (2, True)
        assert "16 objects" in err
        assert "not deleted; answer y, or add --yes" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, _ = tuneloop("runs", "delete", "letters-00000002", "--artifacts", artifacts)
    assert (code, out.strip().startswith("deleted run letters-00000002")) == (0, True)
    write_run(artifacts, "uses-00000003", ["export"], like={"export": "letters-00000001"})
    code, _, err = tuneloop(*arguments, "--yes")
    assert (code, folder.exists()) == (2, True)
    assert "run uses-00000003 has adopted its results of export; change or delete these" in err
    code, out, _ = tuneloop(*arguments, "--yes", "--force", "--json")
    assert code == 0
    assert json.loads(out)["kept_objects"] == 2
    code, out, _ = tuneloop("runs", "show", "uses-00000003", "--artifacts", artifacts)
    assert "reuses stage export of run letters-00000001" in " ".join(out.split())


def test_gc_deletes_only_on_request(tuneloop: Invoke, artifacts: str) -> None:
    put(artifacts, "tokens/abc/manifest.json", "datasets/unused-v1/manifest.json")
    now = datetime.now(UTC)
    set_age(artifacts, now, 30)
    code, out, _ = tuneloop("runs", "gc", "--artifacts", artifacts)
    assert code == 0
    assert "tokens/abc" in out
    assert "nothing was deleted, add --delete" in out
    assert "not chosen: 1 datasets" in out
    assert Path(artifacts, "tokens/abc").exists()
    code, out, _ = tuneloop("runs", "gc", "--artifacts", artifacts, "--delete", "--json")
    found = json.loads(out)
    assert [each["path"] for each in found["garbage"]] == ["tokens/abc"]
    assert not Path(artifacts, "tokens").exists()
    assert Path(artifacts, "datasets/unused-v1").exists()
