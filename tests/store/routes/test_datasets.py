"""Datasets over HTTP: builds, exports and deletion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, build
from tuneloop.storage import files, paths
from tuneloop.store.db.database import Database


def test_build_and_read_a_dataset(http: TestClient, make_trace: Make, artifacts: Path) -> None:
    sent = [make_trace(n, meta={"even": n % 2 == 0}) for n in range(6)]
    ids = [one["id"] for one in http.post(BATCH, json=sent).json()["traces"]]
    reply = build(http, filters={"even": True}, limit=2)
    assert reply.status_code == 201
    assert reply.json() == {
        "dataset_key": "d-v1",
        "build_id": reply.json()["build_id"],
        "trace_count": 2,
        "seed": 7,
        "manifest_path": "datasets/d-v1/manifest.json",
        "account": {
            "considered": 6,
            "rules": [
                {"rule": "evaluation", "removed": 0, "missing": 0, "left": 6, "facts": {}},
                {"rule": "filters", "removed": 3, "missing": 0, "left": 3, "facts": {}},
                {"rule": "limit", "removed": 1, "missing": 0, "left": 2, "facts": {}},
            ],
            "selected": 2,
        },
    }
    assert files.exists(paths.join(str(artifacts), reply.json()["manifest_path"]))
    manifest = http.get("/api/datasets/d-v1").json()
    assert manifest["stats"]["trace_count"] == manifest["trace_count"] == 2
    assert (manifest["recipe"], manifest["seed"]) == ("trace_sft_v1", 7)
    export = http.get("/api/datasets/d-v1/export.jsonl?format=ids")
    assert export.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["id"] for line in export.text.splitlines()] == [ids[4], ids[2]]
    assert build(http, filters={"even": True}, limit=2).status_code == 200
    (listed,) = http.get("/api/datasets").json()
    assert listed == {name: manifest[name] for name in listed}
    assert set(listed) == {"dataset_key", "build_id", "trace_count", "created_at"}


def test_provenance_wins_over_meta_and_steps_go_by_index(
    http: TestClient, make_trace: Make
) -> None:
    steps = [{"i": i, "type": "t", "content": str(i)} for i in (2, 0, 1)]
    meta = {"created_at": "never", "trace_version": "mine", "source": "test"}
    stored = http.post("/api/traces", json=make_trace(steps=steps, meta=meta)).json()
    build(http)
    record = http.get("/api/datasets/d-v1/export.jsonl").json()
    assert record["trace_steps"] == ["0", "1", "2"]
    assert record["id"] == stored["id"]
    assert record["metadata"] == {
        "source": "test",
        "created_at": stored["created_at"],
        "trace_version": "1.0",
    }


def test_a_taken_key_is_409(http: TestClient, dataset: str, make_trace: Make) -> None:
    assert build(http, limit=3).status_code == 409
    assert build(http, seed=8).json()["detail"] == (
        "dataset d-v1: seed is 8, but it was built with 7; a dataset never changes,"
        " use another dataset_version"
    )
    http.post("/api/traces", json=make_trace(9))
    reply = build(http)
    assert reply.status_code == 409
    assert "now selects 6 traces that differ from the 5" in reply.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset_name": ""},
        {"dataset_name": "n" * 129},
        {"dataset_name": "a\x00"},
        {"dataset_version": "v" * 65},
        {"limit": 0},
        {"limit": 10_000_001},
        {"seed": -1},
        {"seed": 2**32},
        {"selection_strategy": "oldest"},
        {"instruction": ""},
        {"instruction": "i" * 1001},
        {"filters": []},
        {"session_id": "s" * 129},
        {"parent_dataset_id": "p" * 257},
        {"training_run_id": "t" * 129},
        {"filter": {"a": 1}},
    ],
)
def test_refused_builds(http: TestClient, dataset: str, fields: dict[str, Any]) -> None:
    reply = build(http, **fields)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", *fields]


def test_an_unknown_recipe_is_told_the_known_ones(http: TestClient) -> None:
    reply = build(http, recipe="x")
    assert (reply.status_code, reply.json()["detail"]) == (
        422,
        "Unknown recipe: x. Must be 'trace_sft_v1' or 'policy_only_v1'",
    )


def test_an_empty_selection_is_422_and_leaves_nothing(http: TestClient, artifacts: Path) -> None:
    reply = build(http, filters={"no": "such"})
    assert (reply.status_code, reply.json()["detail"]) == (
        422,
        "Dataset is empty. No traces matched the filters.",
    )
    assert not files.list_files(str(artifacts))


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("unknown-v1", 404),
        ("..-v1", 404),
        ("中文", 404),
        ("a b", 404),
        ("%2e%2e", 422),
        ("a%00b", 422),
        ("k" * 201, 422),
        ("中" * 80, 422),
    ],
)
def test_unknown_keys_make_no_folder(
    http: TestClient, artifacts: Path, key: str, status: int
) -> None:
    for path in (f"/api/datasets/{key}", f"/api/datasets/{key}/export.jsonl"):
        reply = http.get(path)
        assert reply.status_code in (status, 404)
        assert status == 422 or reply.json()["detail"].startswith("Dataset not found: ")
    assert not artifacts.exists()


def test_an_unknown_format_is_told_the_known_ones(http: TestClient, dataset: str) -> None:
    reply = http.get(f"/api/datasets/{dataset}/export.jsonl?format=csv")
    assert (reply.status_code, reply.json()["detail"]) == (
        422,
        "Invalid format: csv. Must be 'trace' or 'ids'",
    )


def test_an_export_never_lacks_rows_silently(
    http: TestClient, dataset: str, artifacts: Path
) -> None:
    (shard,) = artifacts.rglob("traces-*.jsonl")
    whole = shard.read_bytes()
    shard.write_bytes(whole.splitlines(keepends=True)[0])
    for damaged in (whole[: len(whole) // 2], whole.replace(b"add one", b"add two", 1)):
        shard.write_bytes(damaged)
        reply = http.get(f"/api/datasets/{dataset}/export.jsonl")
        assert reply.status_code == 500
        assert "traces-00000-of-00001.jsonl" in reply.json()["detail"]
        assert str(artifacts) not in reply.text
    shard.unlink()
    assert "is missing" in http.get(f"/api/datasets/{dataset}/export.jsonl").json()["detail"]


def test_a_torn_manifest_is_a_sentence_and_the_list_goes_on(
    http: TestClient, dataset: str, artifacts: Path
) -> None:
    build(http, dataset_version="v2")
    path = artifacts / "datasets" / dataset / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    reply = http.get(f"/api/datasets/{dataset}")
    assert reply.status_code == 500
    assert reply.json()["detail"].startswith(f"datasets/{dataset}/manifest.json: ")
    assert [one["dataset_key"] for one in http.get("/api/datasets").json()] == ["d-v2"]


def test_provenance_is_kept_and_names_nothing(http: TestClient, dataset: str) -> None:
    first = build(http, dataset_version="v2", provenance={"ci_run": 7, "source": "me"}).json()
    stated = http.get("/api/datasets/d-v2").json()
    assert stated["provenance"] == {
        "schema_version": "1.0",
        "source": "me",
        "build_timestamp": stated["created_at"],
        "trace_count": 5,
        "selection_strategy": "latest",
        "seed": 7,
        "ci_run": 7,
    }
    again = build(http, dataset_version="v2", provenance={"ci_run": 8})
    assert (again.status_code, again.json()) == (200, first)


def test_traces_that_go_do_not_change_a_dataset(
    http: TestClient, dataset: str, database: Database
) -> None:
    before = http.get(f"/api/datasets/{dataset}/export.jsonl").content
    for listed in database.list(10):
        database.delete(listed.id)
    assert database.count() == 0
    assert http.get(f"/api/datasets/{dataset}/export.jsonl").content == before


def test_a_large_export_streams(http: TestClient, make_trace: Make) -> None:
    steps = [{"i": 0, "type": "t", "content": "s" * 20_000}]
    http.post(BATCH, json=[make_trace(n, steps=steps) for n in range(20)])
    build(http)
    with http.stream("GET", "/api/datasets/d-v1/export.jsonl") as reply:
        assert "content-length" not in reply.headers
        assert len(list(reply.iter_lines())) == 20


def test_a_deleted_dataset_is_gone_and_its_key_is_free(
    http: TestClient, ids: list[str], make_trace: Make
) -> None:
    wanted = {"dataset_name": "d", "dataset_version": "v1"}
    key = http.post("/api/datasets/build", json=wanted).json()["dataset_key"]
    assert http.delete(f"/api/datasets/{key}").status_code == 204
    for reply in (http.get(f"/api/datasets/{key}"), http.delete(f"/api/datasets/{key}")):
        assert (reply.status_code, reply.json()) == (404, {"detail": f"Dataset not found: {key}"})
    assert http.get("/api/datasets").json() == []
    http.post("/api/traces", json=make_trace(50))
    rebuilt = http.post("/api/datasets/build", json=wanted)
    assert (rebuilt.status_code, rebuilt.json()["trace_count"]) == (201, 8)
    for odd in ("..", "%2e%2e", "a%2Fb", "x" * 300):
        assert http.delete(f"/api/datasets/{odd}").status_code in (404, 405, 422)


def test_readers_share_an_export_by_whole_shards(http: TestClient, ids: list[str]) -> None:
    wanted = {"dataset_name": "d", "dataset_version": "v1"}
    key = http.post("/api/datasets/build", json=wanted).json()["dataset_key"]
    url = f"/api/datasets/{key}/export.jsonl?format=ids"
    whole = http.get(url).content
    parts = [http.get(f"{url}&shard={n}&num_shards=3").content for n in range(3)]
    assert sorted(b"".join(parts).splitlines()) == sorted(whole.splitlines())
    assert parts.count(b"") == 2  # The dataset has one shard file, which is not divided.
    for odd in ("shard=3&num_shards=3", "shard=-1", "num_shards=0", "shard=1"):
        reply = http.get(f"{url}&{odd}")
        assert reply.status_code == 422
        assert "less than num_shards" in reply.text
