"""One run for people, runs side by side, and bytes by kind."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.history.trees import put, write_manifest, write_run
from tuneloop.artifacts import layout
from tuneloop.errors import InputMissing
from tuneloop.history.comparison import compare_runs, flatten
from tuneloop.history.detail import read_detail
from tuneloop.history.usage import SHARED, kind_of, measure
from tuneloop.storage import files
from tuneloop.storage.objects import StoredObject

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_a_run_and_the_runs_it_belongs_to(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "first-1")
    train = {"continue_from": "first-1", "steps": 100, "batch_size": 8}
    write_run(root, "more-2", ["export"], like={"export": "first-1"}, train=train)
    write_manifest(root, "tuned-3", train={"model": {"kind": "pretrained", "run": "first-1"}})
    files.write(layout.run_manifest_url(root, "broken-4"), b"{")
    first = read_detail(root, "first-1", now=NOW)
    assert first.relations == ("run more-2 continues it", "run tuned-3 starts from it")
    assert [stage.state for stage in first.stages] == ["done"] * 4
    assert first.size_bytes == sum(
        path.stat().st_size for path in Path(root, "training_runs/first-1").rglob("*.*")
    )
    assert [url.rsplit("/", 1)[-1] for url in first.files] == [
        "delta_report.json",
        "eval_after.jsonl",
        "export_report.md",
        "metrics.jsonl",
    ]
    more = read_detail(root, "more-2", now=NOW)
    assert more.relations == ("continues run first-1", "reuses stage export of run first-1")
    assert [stage.state for stage in more.stages[:2]] == ["reused", "not started"]
    assert dict(more.facts)["training"] == "100 steps, batch size 8"
    assert json.loads(json.dumps(more.as_json()))["stages"][1]["seconds"] is None
    assert read_detail(root, "broken-4", now=NOW).state == "export not started"
    with pytest.raises(InputMissing, match="never-was: missing"):
        read_detail(root, "never-was", now=NOW)


def test_runs_side_by_side(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(
        root, "a-1", train={"steps": 50, "optimizer": {"kind": "adamw", "betas": [0.9, 0.99]}}
    )
    write_run(
        *(root, "b-2", ["export", "train"]),
        train={"steps": 100, "optimizer": {"kind": "adamw", "betas": [0.9, 0.95]}},
        dataset="ünïcode 🟡",
        image="registry.example/tuneloop@sha256:1",
    )
    found = compare_runs(root, ["a-1", "b-2", "a-1"], now=NOW)
    assert found.spec == {
        "name": ("a", "b", "a"),
        "train.steps": ("50", "100", "50"),
        "train.optimizer.betas": ("[0.9, 0.99]", "[0.9, 0.95]", "[0.9, 0.99]"),
    }
    assert found.identity["image"] == ("-", "registry.example/tuneloop@sha256:1", "-")
    assert found.identity["dataset"] == ("letters-v1", "ünïcode 🟡", "letters-v1")
    assert len(set(found.identity["fingerprint of train"])) == 2
    assert "seed" not in found.identity
    assert found.results["eval accuracy_tuned"] == ("0.75", "-", "0.75")
    assert found.results["state"] == ("finished", "eval not started", "finished")
    json.dumps(found.as_json())
    same = compare_runs(root, ["a-1", "a-1"], now=NOW)
    assert (same.spec, same.identity) == ({}, {})
    files.write(layout.run_manifest_url(root, "torn-3"), b"{")
    for run_id in ("torn-3", "never-was"):
        with pytest.raises(InputMissing, match=run_id):
            compare_runs(root, ["a-1", run_id], now=NOW)


def test_fields_by_path() -> None:
    value = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}
    assert flatten(value) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}], "f": None}
    assert flatten({}) == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("training_runs/r/train/resume/checkpoints/5/a", "checkpoints"),
        ("training_runs/r/train/attempts/a/model/model.safetensors", "tuned models"),
        ("training_runs/r/train/attempts/a/adapter/adapter.safetensors", "tuned models"),
        ("training_runs/r/export/attempts/a/examples-00000-of-00001.jsonl", "examples"),
        ("training_runs/r/eval/attempts/a/eval_before.jsonl", "traces"),
        ("training_runs/r/eval_after.jsonl", "traces"),
        ("training_runs/r/delta_report.md", "reports"),
        ("training_runs/r/lengths.svg", "reports"),
        ("training_runs/r/train/record.json", "records and logs"),
        ("training_runs/new\nline/train/record.json", "records and logs"),
        ("training_runs/r/train/attempts/a/metrics.jsonl", "other outputs"),
        ("tokens/abc/manifest.json", "tokens (cache)"),
        ("jax_cache/x", "compilations (cache)"),
        ("datasets/d/manifest.json", "datasets"),
        ("models/m/model.safetensors", "stored models"),
        ("stages/f.json", "records and logs"),
        ("readme", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_bytes_by_run_and_kind() -> None:
    sizes = {
        "training_runs/a/train/resume/x": 5,
        "training_runs/a/train/record.json": 1,
        "training_runs/b/train/resume/x": 7,
        "training_runs/loose": 1,
        "tokens/t/ids": 20,
    }
    found = measure([StoredObject(name, size, None) for name, size in sizes.items()])
    assert found.size_bytes == 34
    assert found.by_kind["checkpoints"] == (12, 2)
    assert list(found.by_run) == [SHARED, "b", "a"]
    assert found.by_run["a"] == {"checkpoints": 5, "records and logs": 1}
    assert measure([]).size_bytes == 0


def test_sizes_are_those_of_the_disk(tmp_path: Path) -> None:
    from tuneloop.storage.objects import list_objects

    put(str(tmp_path), "training_runs/ü 🟡/x", "tokens/a/b", "empty/.keep")
    found = measure(list_objects(str(tmp_path)))
    assert found.size_bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert "ü 🟡" in found.by_run
