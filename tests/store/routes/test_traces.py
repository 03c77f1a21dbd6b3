"""Traces over HTTP: storing, lists, comparison, scores and deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, post_raw
from tuneloop.store.db.database import Database

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def walk(http: TestClient, between: Callable[[], Any] = lambda: None, **query: Any) -> list[str]:
    """Return all pages by cursor."""
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
        "total_chars": 18,  # Lengths count code points, not bytes.
        "step_score": 15.0,
        "length_score": 0.6,
        "criteria": "baseline",
    }
    assert (scored["trace_id"], scored["score"]) == (trace_id, 15.6)
    # This uses the default criterion.
    assert http.post(f"/api/traces/{trace_id}/score").status_code == 201
    assert [one.score for one in database.scores.of_trace(trace_id, 9)] == [15.6, 15.6]
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
    assert database.scores.of_trace(ids[0], 9) == []
    again = http.delete(f"/api/traces/{ids[0]}")
    assert (again.status_code, again.json()) == (404, {"detail": f"Trace {ids[0]} not found"})
    assert http.get(f"/api/datasets/{built['dataset_key']}/export.jsonl").content == before
    assert http.delete("/api/traces/nonsense").status_code == 422
