"""Two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.finished_run import publish_run, torn
from tests.store.web.looking import HOSTILE, look, text_of
from tuneloop import jsonl


def change_spec(artifacts: Path, run_id: str, **train: Any) -> None:
    path = artifacts / "training_runs" / run_id / "run_manifest.json"
    manifest = json.loads(path.read_text())
    manifest["spec"]["train"] |= train
    manifest["spec"]["execution"]["artifacts"] = str(artifacts / "elsewhere")
    manifest["spec"]["eval"]["eval_set"] = f"{artifacts}/other_v2.jsonl"
    manifest["spec"]["eval"]["sets"][0]["url"] = f"{artifacts}/more_v2.jsonl"
    torn(str(artifacts), run_id, "run_manifest.json", manifest)


def test_differences_curves_and_results(http: TestClient, artifacts: Path, run_id: str) -> None:
    rows = [{"step": n, "loss": 3.0 / n, "tokens_per_second": 10.0} for n in range(1, 31)]
    metrics = b"".join(map(jsonl.dump_line, rows))
    publish_run(str(artifacts), "letters-v1", "other-1", metrics=metrics)
    change_spec(artifacts, "other-1", steps=30, note=HOSTILE)
    page = look(http, f"/runs/compare?a={run_id}&b=other-1")
    said = text_of(page)
    assert "train.steps 50 30" in said
    assert f"train.note - {HOSTILE}" in said
    assert "eval.eval_set letters_v1.jsonl other_v2.jsonl" in said
    assert "eval.sets.0.url more_v1.jsonl more_v2.jsonl" in said
    assert "Loss by step of both runs: 0.592 at step 50 and 0.1 at step 30." in said
    assert page.count("<polyline") == 2
    assert "eval accuracy_tuned 0.722222 0.722222" in said
    assert str(artifacts) not in page


def test_a_run_beside_itself_and_an_unfinished_one(
    http: TestClient, artifacts: Path, run_id: str
) -> None:
    assert "No difference." in text_of(look(http, f"/runs/compare?a={run_id}&b={run_id}"))
    publish_run(str(artifacts), "letters-v1", "going-1", stages=["export"])
    said = text_of(look(http, f"/runs/compare?a={run_id}&b=going-1"))
    assert "state finished train not started" in said
    assert "Loss by step of both runs: 0.592 at step 50." in said


@pytest.mark.parametrize("other", ["nowhere-1", "..", "a/b", HOSTILE, "foreign"])
def test_what_is_no_run(http: TestClient, artifacts: Path, run_id: str, other: str) -> None:
    torn(str(artifacts), "foreign", "notes/a.txt", "hello")
    page = look(http, f"/runs/compare?a={run_id}&b={other}", 404)
    assert str(artifacts) not in page


def test_one_id_asks_for_the_other(http: TestClient, run_id: str) -> None:
    page = look(http, f"/runs/compare?a={run_id}")
    assert f'value="{run_id}"' in page and "<table" not in page
    assert "/runs/compare?a=" in look(http, f"/runs/{run_id}")
