"""Reading of stored runs: truncated and unrelated files become messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.builders import letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tests.store.web.looking import look, text_of
from tuneloop.artifacts import layout
from tuneloop.storage import files
from tuneloop.store.web import stored_runs


@pytest.mark.parametrize("name", ["..", ".", "../datasets", "a/b", "", "\x00", "é", "r" * 201])
def test_no_run_id_leads_out_of_the_folder(http: TestClient, run_id: str, name: str) -> None:
    service = http.app.state.service  # type: ignore[attr-defined]
    assert stored_runs.find_run(service, name) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run_manifest.json", "", "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", "[1]", "run_manifest.json: expected "),
        ("run_manifest.json", b"\xff\xfe\x00", "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", "[" * 100_000, "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", '{"run_id": "\\ud800"}', "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", b"x" * (5 << 20), "holds 5242880 bytes, expected at most"),
        ("train/record.json", '{"run_id', "train/record.json: Invalid JSON"),
        ("train/record.json", "{}", "train/record.json: run_id is missing"),
        ("train/attempts/20261122T112233-064c19/metrics.jsonl", "{", "metrics.jsonl holds 1 bytes"),
        ("eval/attempts/20261122T112233-064c19/delta_report.md", "", "delta_report.md holds 0"),
    ],
)
def test_a_torn_file_is_a_sentence(
    http: TestClient, artifacts: Path, run_id: str, name: str, content: Any, said: str
) -> None:
    torn(str(artifacts), run_id, name, content)
    for path in (f"/runs/{run_id}", "/runs", "/"):
        page = look(http, path)
        assert str(artifacts) not in page
    assert said in text_of(look(http, f"/runs/{run_id}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seconds": float("nan"), "started_at": "yesterday"}, "unknown"),
        ({"started_at": "0001-01-01T00:00:00+14:00"}, "finished"),
        ({"results": {"loss_first": "<b>", "loss_last": [1], "accuracy_base": True}}, "finished"),
        ({"counts": {"<b>": 3}}, "<b> 3"),
        ({"run_id": "other-1"}, "the record belongs to another stage or run"),
        ({"stage": "eval"}, "the record belongs to another stage or run"),
    ],
)
def test_a_foreign_record_is_shown_or_a_sentence(
    http: TestClient, artifacts: Path, run_id: str, change: dict[str, Any], said: str
) -> None:
    url = layout.record_url(str(artifacts), run_id, "train")
    record = {**json.loads(files.read(url)), **change}
    del record["seal"]  # as an older version would have written it
    torn(str(artifacts), run_id, "train/record.json", record)
    assert said in text_of(look(http, f"/runs/{run_id}"))
    look(http, "/runs")


def test_same_file_size_other_bytes_is_found_out(
    http: TestClient, artifacts: Path, run_id: str
) -> None:
    folder = artifacts / "training_runs" / run_id
    for name in (
        "train/attempts/20261122T112233-064c19/metrics.jsonl",
        "eval/attempts/20261122T112233-064c19/delta_report.md",
    ):
        file = folder / name
        file.write_bytes(b" " * file.stat().st_size)
    said = text_of(look(http, f"/runs/{run_id}"))
    assert said.count("changed after it was recorded") == 2


def test_metrics_without_losses(http: TestClient, artifacts: Path) -> None:
    key = publish_dataset(str(artifacts), [letter_trace(0)])
    publish_run(str(artifacts), key, "odd-1", metrics=b'{"step":1}\n')
    publish_run(str(artifacts), key, "odd-2", metrics=b'{"loss":1.5}\n')
    publish_run(str(artifacts), key, "odd-3", metrics=b'{"loss":0.0}\n{"loss":-0.0}\n')
    validated = (
        b'{"step":0,"validation_loss":4.0}\n{"loss":2.0,"step":1,"validation_loss":null}\n'
        b'{"loss":1.0,"step":2,"validation_loss":3.0}\n'
    )
    publish_run(str(artifacts), key, "odd-4", metrics=validated)
    assert "metrics.jsonl:1: found no loss" in text_of(look(http, "/runs/odd-1"))
    assert "Loss by step" not in text_of(look(http, "/runs/odd-2"))
    assert "lowest 0 at step 1" in text_of(look(http, "/runs/odd-3"))
    page = look(http, "/runs/odd-4")
    assert "2 at step 1, 1 at step 2" in text_of(page)
    assert "Validation loss: lowest 3 after step 2." in text_of(page)
    assert '<polyline points="0.0,60.0 600.0,90.0"/>' in page
    assert '<polyline class="validation" points="0.0,0.0 600.0,30.0"/>' in page


def test_unfinished_runs(http: TestClient, artifacts: Path) -> None:
    key = publish_dataset(str(artifacts), [letter_trace(0)])
    now = "2099-01-01T00:00:00+00:00"
    beat = {"updated_at": now, "step": 12, "total": 50}
    publish_run(str(artifacts), key, "going-1", stages=["export"])
    torn(str(artifacts), "going-1", "train/progress.json", beat)
    publish_run(str(artifacts), key, "gone-1", stages=["export"])
    torn(
        str(artifacts),
        "gone-1",
        "train/progress.json",
        {**beat, "updated_at": "2020-01-01T00:00:00Z"},
    )
    publish_run(str(artifacts), key, "given-up-1", stages=["export"])
    verdict = {
        "state": "OutOfMemory",
        "cause": "<b>killed</b>",
        "fix": "Ask for more.",
        "evidence": [],
    }
    torn(str(artifacts), "given-up-1", "train/verdict.json", verdict)
    publish_run(str(artifacts), key, "odd-1", stages=["export"])
    torn(str(artifacts), "odd-1", "train/progress.json", "[]")
    (artifacts / "training_runs" / "empty").mkdir()
    torn(str(artifacts), "foreign", "notes/a.txt", "hello")
    assert "train running" in text_of(look(http, "/runs/going-1"))
    assert "step 12 of 50" in text_of(look(http, "/runs/going-1"))
    assert "train stopped Step 12 of 50. Run the spec again" in text_of(look(http, "/runs/gone-1"))
    assert "OutOfMemory <b>killed</b>. Ask for more." in text_of(look(http, "/runs/given-up-1"))
    assert "train unreadable" in text_of(look(http, "/runs/odd-1"))
    assert "it is not a tuneloop run" in text_of(look(http, "/runs/foreign"))
    look(http, "/runs/empty", 404)
    listed = text_of(look(http, "/runs"))
    assert "given-up-1 train OutOfMemory" in listed
    assert "empty" not in listed
