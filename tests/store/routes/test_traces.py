"""Lists, comparison, scores and deletion over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tuneloop.store.db.database import Database

Make = Callable[..., dict[str, Any]]
BATCH = "/api/traces/batch"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def ids(http: TestClient, make_trace: Make) -> list[str]:
    """Seven traces, oldest first; the odd ones come from `a`, the even ones from `b`."""
    traces = [make_trace(n, meta={"source": "ba"[n % 2], "number": n}) for n in range(7)]
    return [row["id"] for row in http.post(BATCH, json=traces).json()["traces"]]


def walk(http: TestClient, between: Callable[[], Any] = lambda: None, **query: Any) -> list[str]:
    """All pages by cursor."""
    seen: list[str] = []
    cursor: str | None = None
    while True:
        chosen = {**query, "limit": 2, **({"cursor": cursor} if cursor else {})}
        reply = http.get("/api/traces", params=chosen)
        assert reply.status_code == 200, reply.text
        seen += [row["id"] for row in reply.json()["data"]]
        cursor = reply.json()["pagination"]["next_cursor"]
        if cursor is None:
            return seen
        between()


def test_a_cursor_repeats_nothing_while_traces_arrive_and_go(
    http: TestClient, ids: list[str], make_trace: Make
) -> None:
    assert walk(http, lambda: http.post("/api/traces", json=make_trace(99))) == ids[::-1]
    arrived = http.get("/api/traces").json()["data"]
    assert walk(http, lambda: http.delete(f"/api/traces/{arrived[0]['id']}"))[-7:] == ids[::-1]


def test_lists_by_source_and_time(http: TestClient, ids: list[str]) -> None:
    assert walk(http, source="a") == [ids[5], ids[3], ids[1]]
    assert walk(http, source="A") == []
    assert walk(http, source='a"}, "number": 1') == []
    third = http.get(f"/api/traces/{ids[2]}").json()["created_at"]
    assert walk(http, created_after=third) == ids[:2:-1]
    assert walk(http, created_after=third, source="b") == [ids[6], ids[4]]
    shifted = datetime.fromisoformat(third).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
    assert walk(http, created_after=shifted) == ids[:2:-1]


def test_traces_without_meta_are_no_obstacle(
    http: TestClient, ids: list[str], make_trace: Make
) -> None:
    http.post(BATCH, json=[make_trace(1, meta=None), make_trace(2, meta={"source": None})])
    assert walk(http, source="a") == [ids[5], ids[3], ids[1]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("cursor=nonsense", "Invalid cursor: expected next_cursor of an earlier reply"),
        ("cursor=", "Invalid cursor"),
        ("cursor=%F0%9F%9F%A1", "Invalid cursor"),
        ("cursor=" + quote("dDE5" * 40), "Invalid cursor"),
        ("cursor=dDE&offset=1", "cursor and offset exclude each other"),
        ("created_after=yesterday", "datetime"),
        ("created_after=2026-11-24T00:00:00", "timezone"),
        ("created_after=2026", "expected a date and a time with a time zone"),
        ("created_after=0", "expected a date and a time with a time zone"),
        ("created_after=0000-01-01T00:00:00Z", "datetime"),
    ],
)
def test_odd_queries_are_refused(http: TestClient, query: str, words: str) -> None:
    reply = http.get(f"/api/traces?{query}")
    assert reply.status_code == 422
    assert words in reply.text


def test_two_traces_side_by_side(http: TestClient, make_trace: Make) -> None:
    steps = [{"i": n, "type": "reason", "content": "x" * 100} for n in range(5)]
    one, two = (
        http.post("/api/traces", json=trace).json()["id"]
        for trace in (make_trace(1), make_trace(2, steps=steps))
    )
    found = http.get("/api/traces/compare", params={"base": one, "other": two}).json()
    assert set(found["base"]) == {"id", "created_at", "score", "trace_version", "payload"}
    assert found["base"]["payload"] == make_trace(1)
    assert found["other"]["score"] == 5 / 10 * 50 + 100 / 500 * 50
    for base, other, words in (
        (UNKNOWN, two, f"Base trace {UNKNOWN} not found"),
        (one, UNKNOWN, f"Other trace {UNKNOWN} not found"),
    ):
        reply = http.get("/api/traces/compare", params={"base": base, "other": other})
        assert (reply.status_code, reply.json()) == (404, {"detail": words})
    assert http.get("/api/traces/compare", params={"base": one}).status_code == 422
    assert http.get("/api/traces/compare?base=x&other=y").status_code == 422


def test_a_score_is_kept_with_what_it_is_made_of(
    http: TestClient, database: Database, make_trace: Make
) -> None:
    steps = [{"i": n, "type": "reason", "content": "é🟡x" * (n + 1)} for n in range(3)]
    trace_id = http.post("/api/traces", json=make_trace(steps=steps)).json()["id"]
    reply = http.post(f"/api/traces/{trace_id}/score", json={"criteria": "baseline"})
    assert reply.status_code == 201
    scored = reply.json()
    details = scored["details"]
    assert details.pop("scored_at").endswith("Z")
    assert details == {
        "step_count": 3,
        "avg_step_length": 6.0,
        "total_chars": 18,  # code points, not bytes
        "step_score": 15.0,
        "length_score": 0.6,
        "criteria": "baseline",
    }
    assert (scored["trace_id"], scored["score"]) == (trace_id, 15.6)
    assert http.post(f"/api/traces/{trace_id}/score").status_code == 201  # the default criterion
    assert database.scores(trace_id) == [15.6, 15.6]
    assert http.post(f"/api/traces/{UNKNOWN}/score", json={}).status_code == 404
    refused = http.post(f"/api/traces/{trace_id}/score", json={"criteria": "judge"})
    assert refused.status_code == 422


def test_a_deleted_trace_is_gone_with_its_scores_and_datasets_keep_it(
    http: TestClient, database: Database, ids: list[str]
) -> None:
    http.post(f"/api/traces/{ids[0]}/score", json={})
    built = http.post(
        "/api/datasets/build", json={"dataset_name": "d", "dataset_version": "v1"}
    ).json()
    before = http.get(f"/api/datasets/{built['dataset_key']}/export.jsonl").content
    reply = http.delete(f"/api/traces/{ids[0]}")
    assert (reply.status_code, reply.content) == (204, b"")
    assert http.get(f"/api/traces/{ids[0]}").status_code == 404
    assert database.scores(ids[0]) == []
    again = http.delete(f"/api/traces/{ids[0]}")
    assert (again.status_code, again.json()) == (404, {"detail": f"Trace {ids[0]} not found"})
    assert http.get(f"/api/datasets/{built['dataset_key']}/export.jsonl").content == before
    assert http.delete("/api/traces/nonsense").status_code == 422


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
    assert parts.count(b"") == 2  # one shard file: it is not cut
    for odd in ("shard=3&num_shards=3", "shard=-1", "num_shards=0", "shard=1"):
        reply = http.get(f"{url}&{odd}")
        assert reply.status_code == 422
        assert "less than num_shards" in reply.text


@pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)
def test_probes(http: TestClient, database: Database) -> None:
    assert http.get("/healthz").json() == {"status": "healthy"}
    reply = http.get("/readyz")
    assert (reply.status_code, reply.json()) == (
        200,
        {"status": "ready", "database": "ok", "artifacts": "ok"},
    )
    path = Path(database.place)
    database.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.mkdir()  # whoever the tests run as, this cannot be opened
    reply = http.get("/readyz")
    assert (reply.status_code, reply.json()["database"]) == (503, "unavailable")
    assert str(path) not in reply.text
    assert http.get("/healthz").status_code == 200
