"""The store over HTTP: paths, codes and texts, and that no request can break it."""

from __future__ import annotations

import contextlib
import json
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.store_fixtures import CATALOG
from tuneloop.storage import files, paths
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database

Make = Callable[..., dict[str, Any]]
BATCH = "/api/traces/batch"
BUILD = "/api/datasets/build"
ON_SQLITE = pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)


def post_raw(http: TestClient, body: bytes, path: str = BATCH, **headers: str) -> Any:
    sent = {"content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(path, content=body, headers=sent)


def build(http: TestClient, **fields: Any) -> Any:
    return http.post(BUILD, json={"dataset_name": "d", "dataset_version": "v1", **fields})


@pytest.fixture
def dataset(http: TestClient, make_trace: Make) -> str:
    http.post(BATCH, json=[make_trace(n) for n in range(5)])
    return str(build(http).json()["dataset_key"])


def test_health(http: TestClient) -> None:
    assert http.get("/api/health").json() == {"status": "healthy"}


def test_one_trace_there_and_back(http: TestClient, make_trace: Make) -> None:
    reply = http.post("/api/traces", json=make_trace(1))
    assert reply.status_code == 201
    assert set(reply.json()) == {"id", "created_at", "trace_version"}
    detail = http.get(f"/api/traces/{reply.json()['id']}").json()
    assert detail == {**reply.json(), "payload": make_trace(1)}
    assert detail["created_at"].endswith("Z")


def test_unknown_and_malformed_ids(http: TestClient) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    reply = http.get(f"/api/traces/{unknown}")
    assert (reply.status_code, reply.json()) == (404, {"detail": f"Trace {unknown} not found"})
    reply = http.get("/api/traces/nonsense")
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["path", "trace_id"]


def test_pages(http: TestClient, make_trace: Make) -> None:
    sent = http.post(BATCH, json=[make_trace(n) for n in range(5)]).json()["traces"]
    first = http.get("/api/traces?limit=3").json()
    assert first["data"] == sent[:1:-1]
    expected = {"limit": 3, "offset": 0, "next_offset": 3}
    assert expected.items() <= first["pagination"].items()
    last = http.get("/api/traces?limit=3&offset=3").json()
    assert last["data"] == sent[1::-1]
    assert last["pagination"]["next_offset"] is None


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "limit must be between 1 and 100"),
        ("limit=101", "limit must be between 1 and 100"),
        ("offset=-1", "offset must be non-negative"),
        (f"offset={2**63}", f"offset must be at most {2**63 - 1}"),
    ],
)
def test_pages_out_of_range(http: TestClient, query: str, text: str) -> None:
    reply = http.get(f"/api/traces?{query}")
    assert (reply.status_code, reply.json()["detail"]) == (422, text)


@pytest.mark.parametrize("query", ["limit=x", "offset=1.5", f"offset={'9' * 5000}"])
def test_pages_without_a_number(http: TestClient, query: str) -> None:
    reply = http.get(f"/api/traces?{query}")
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"][0] == "query"


def test_the_largest_offset_is_an_empty_page(http: TestClient) -> None:
    assert http.get(f"/api/traces?offset={2**63 - 1}").json()["data"] == []


def test_a_batch_is_answered_in_order(http: TestClient, make_trace: Make) -> None:
    sent = [make_trace(n, trace_version=f"v{n}") for n in range(4)]
    reply = http.post(BATCH, json=sent)
    assert reply.status_code == 201
    assert reply.json()["created_count"] == 4
    assert [one["trace_version"] for one in reply.json()["traces"]] == ["v0", "v1", "v2", "v3"]
    times = [one["created_at"] for one in reply.json()["traces"]]
    assert times == sorted(set(times))


@pytest.mark.parametrize("ndjson", [False, True])
def test_sizes_of_a_batch(http: TestClient, make_trace: Make, ndjson: bool) -> None:
    def post(count: int) -> Any:
        lines = [json.dumps(make_trace(n)) for n in range(count)]
        if ndjson:
            return post_raw(http, "\n".join(lines).encode(), content_type="application/x-ndjson")
        return post_raw(http, f"[{','.join(lines)}]".encode())

    assert post(1000).status_code == 201
    empty, over = post(0), post(1001)
    assert (empty.status_code, empty.json()["detail"]) == (
        400,
        "Batch must contain at least one trace",
    )
    assert (over.status_code, over.json()["detail"]) == (
        400,
        "Batch size (1001) exceeds maximum (1000)",
    )


@pytest.mark.parametrize("ndjson", [False, True])
def test_a_batch_with_one_fault_stores_nothing(
    http: TestClient, database: Database, make_trace: Make, ndjson: bool
) -> None:
    batch = [make_trace(0), make_trace(1), make_trace(2, prompt="")]
    if ndjson:
        body = "\n".join(map(json.dumps, batch)).encode()
        reply = post_raw(http, body, content_type="application/x-ndjson; charset=utf-8")
    else:
        reply = post_raw(http, json.dumps(batch).encode())
    assert reply.status_code == 422
    (fault,) = reply.json()["detail"]
    assert fault["loc"] == ["body", 2, "prompt"]
    assert (fault["type"], fault["input"]) == ("string_too_short", "")
    assert database.count() == 0


def test_ndjson_with_mark_blank_lines_and_crlf(
    http: TestClient, database: Database, make_trace: Make
) -> None:
    lines = [json.dumps(make_trace(n, prompt="a\u2028b"), ensure_ascii=False) for n in range(2)]
    body = ("\ufeff" + "\r\n\r\n".join(lines) + "\r\n").encode()
    reply = post_raw(http, body, content_type="application/x-ndjson")
    assert reply.json()["created_count"] == 2
    assert database.count() == 2


def test_lines_sent_as_json_are_told_what_to_do(http: TestClient, make_trace: Make) -> None:
    line = json.dumps(make_trace()).encode()
    (fault,) = post_raw(http, line + b"\n" + line).json()["detail"]
    assert fault["type"] == "json_invalid"
    assert "application/x-ndjson" in fault["msg"]
    assert fault["input"] == {}


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"null", b'"x"', b"[null]", b"\xff", b"[[]]"])
@pytest.mark.parametrize("path", [BATCH, "/api/traces", BUILD])
def test_nonsense_is_422(http: TestClient, path: str, body: bytes) -> None:
    reply = post_raw(http, body, path)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize(
    "meta",
    [
        '{"x": NaN}',
        '{"x": -Infinity}',
        '{"x": 1e999}',
        '{"x": "\\ud800"}',
        '{"\\udc00": 1}',
        '{"x": "\\u0000"}',
        '{"x": ' + "1" * 5000 + "}",
        '{"a":' * 150 + "1" + "}" * 150,
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_what_cannot_be_kept_is_422_with_a_json_reply(
    http: TestClient, database: Database, make_trace: Make, meta: str
) -> None:
    body = json.dumps(make_trace(meta="META")).replace('"META"', meta).encode()
    for path, content in (("/api/traces", body), (BATCH, b"[" + body + b"]")):
        reply = post_raw(http, content, path)
        assert reply.status_code == 422
        json.loads(reply.content, parse_constant=pytest.fail)
    request = {"dataset_name": "d", "dataset_version": "v", "filters": "META"}
    reply = post_raw(http, json.dumps(request).replace('"META"', meta).encode(), BUILD)
    assert reply.status_code == 422
    assert database.count() == 0


def test_a_reply_about_a_thousand_faults_stays_small(http: TestClient, make_trace: Make) -> None:
    faulty = make_trace(steps=[{}] * 1000, prompt="", meta={"x": "y" * 5000, "bad\x00": 1})
    reply = http.post(BATCH, json=[faulty] * 100)
    assert reply.status_code == 422
    assert len(reply.json()["detail"]) == 100
    assert len(reply.content) < 200_000


def test_a_trace_may_have_a_mebibyte(http: TestClient, make_trace: Make) -> None:
    body = json.dumps(make_trace()).encode()
    full = body + b" " * (1_048_576 - len(body))
    assert post_raw(http, full, "/api/traces").status_code == 201
    reply = post_raw(http, full + b" ", "/api/traces")
    assert (reply.status_code, reply.json()["detail"]) == (
        413,
        "Payload size exceeds maximum of 1048576 bytes",
    )


def test_too_long_a_body_is_refused_without_keeping_it(
    store_url: str, database: Database, make_trace: Make
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4096):  # 256 MiB
            yield b" " * (1 << 16)

    with httpx.Client(base_url=store_url) as client:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert client.post("/api/traces", content=chunks()).status_code == 413
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 64 << 10
        assert client.post("/api/traces", content=b" " * (4 << 20)).status_code == 413
        assert client.post(BATCH, content=b" " * ((64 << 20) + 1)).status_code == 413
        parts = iter([b"[", json.dumps(make_trace()).encode(), b"]"])
        assert client.post(BATCH, content=parts).status_code == 201
    assert database.count() == 1


def test_a_retried_batch_is_stored_once(
    http: TestClient, database: Database, make_trace: Make
) -> None:
    batch = [make_trace(n) for n in range(3)]
    headers = {"Idempotency-Key": "import/1"}
    first = http.post(BATCH, json=batch, headers=headers)
    lines = "\n".join(json.dumps(one, indent=None, sort_keys=True) for one in batch).encode()
    again = post_raw(http, lines, content_type="application/x-ndjson", idempotency_key="import/1")
    assert (again.status_code, again.json()) == (201, first.json())
    other = http.post(BATCH, json=batch[:2], headers=headers)
    assert other.status_code == 409
    assert "use another key" in other.json()["detail"]
    assert database.count() == 3
    one = http.post("/api/traces", json=batch[0], headers={"Idempotency-Key": "k"})
    assert http.post("/api/traces", json=batch[0], headers={"Idempotency-Key": "k"}).json() == (
        one.json()
    )
    assert database.count() == 4


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é".encode("latin-1")])
def test_bad_idempotency_keys(http: TestClient, make_trace: Make, key: Any) -> None:
    reply = http.post(BATCH, json=[make_trace()], headers={"Idempotency-Key": key})
    assert reply.status_code == 422


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


def test_two_replicas_serve_the_same(
    new_database_url: Callable[[], str], artifacts: Path, make_trace: Make
) -> None:
    url = new_database_url()
    with contextlib.ExitStack() as both:
        one, other = (
            both.enter_context(TestClient(create_app(Database(url), str(artifacts), CATALOG)))
            for _ in range(2)
        )
        sent = one.post(BATCH, json=[make_trace(n) for n in range(3)]).json()["traces"]
        assert other.get(f"/api/traces/{sent[0]['id']}").status_code == 200
        key = build(other).json()["dataset_key"]
        assert one.get(f"/api/datasets/{key}").json() == other.get(f"/api/datasets/{key}").json()
        export = f"/api/datasets/{key}/export.jsonl?format=trace"
        assert one.get(export).content == other.get(export).content
        assert one.delete(f"/api/datasets/{key}").status_code == 204
        assert other.get(f"/api/datasets/{key}").status_code == 404


def test_traces_that_go_do_not_change_a_dataset(
    http: TestClient, dataset: str, database: Database
) -> None:
    before = http.get(f"/api/datasets/{dataset}/export.jsonl").content
    for listed in database.list(10):
        database.delete(listed.id)
    assert database.count() == 0
    assert http.get(f"/api/datasets/{dataset}/export.jsonl").content == before


@ON_SQLITE
def test_a_damaged_database_is_a_sentence(
    http: TestClient, database: Database, make_trace: Make
) -> None:
    database.close()
    path = Path(database.place)
    path.write_bytes(b"no longer a database" * 1000)
    for left in path.parent.glob(f"{path.name}-*"):
        left.unlink()
    reply = http.post("/api/traces", json=make_trace())
    assert reply.status_code == 500
    assert reply.json()["detail"].startswith("What the store keeps is damaged")
    assert str(path) not in reply.text


def test_health_answers_while_datasets_are_built(
    store_url: str, database: Database, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, release = threading.Event(), threading.Event()
    selection = database.selection

    def held(*args: Any) -> Any:
        holding.set()
        release.wait(10)
        return selection(*args)

    monkeypatch.setattr(database, "selection", held)
    with httpx.Client(base_url=store_url) as client:
        client.post(BATCH, json=[make_trace()])
        request = {"dataset_name": "d", "dataset_version": "v1"}
        replies: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{store_url}{BUILD}", json=request))
        )
        thread.start()
        assert holding.wait(10)
        assert client.get("/api/health", timeout=2).status_code == 200
        assert client.post(BATCH, json=[make_trace()], timeout=2).status_code == 201
        release.set()
        thread.join()
    assert replies[0].status_code == 201


def test_a_large_export_streams(http: TestClient, make_trace: Make) -> None:
    steps = [{"i": 0, "type": "t", "content": "s" * 20_000}]
    http.post(BATCH, json=[make_trace(n, steps=steps) for n in range(20)])
    build(http)
    with http.stream("GET", "/api/datasets/d-v1/export.jsonl") as reply:
        assert "content-length" not in reply.headers
        assert len(list(reply.iter_lines())) == 20


def test_openapi_describes_the_bodies(http: TestClient) -> None:
    described = http.get("/openapi.json").json()["paths"]
    body = described[BATCH]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-ndjson"}
