"""The stream of traces: order, filters, cursors, sizes of blocks, and traces that come and go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import Make
from tests.store.web.looking import post
from tuneloop.store.db import exports
from tuneloop.store.db.database import Database

HARD = "مرحبا 👩🏽‍🚀 \u202e</script> <think>\r\n\t'\""


def export(http: TestClient, **query: Any) -> list[dict[str, Any]]:
    reply = http.get("/api/traces/export.jsonl", params=query)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    # U+2028 and others are no ends of lines.
    return [json.loads(line) for line in reply.text.split("\n")[:-1]]


def test_lines_are_the_traces_newest_first(
    http: TestClient, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http.get("/api/traces/export.jsonl").content == b""
    meta = {"source": HARD, "n": 1.5}
    traces = [
        make_trace(n, prompt=HARD + "\u2028" * n, meta={**meta, "source": f"s{n % 2}"})
        for n in range(23)
    ]
    traces[7]["meta"]["long"] = "🟡" * 100_000
    ids = post(http, *traces)
    for rows, size in ((1000, 1 << 18), (5, 1), (4, 700)):
        monkeypatch.setattr(exports, "WINDOW_ROWS", rows)
        monkeypatch.setattr(exports, "BLOCK_BYTES", size)
        found = export(http)
        assert [row["id"] for row in found] == ids[::-1]
        assert [row["payload"] for row in found] == traces[::-1]
        for row in found[::11]:
            expected = http.get(f"/api/traces/{row['id']}").json()
            assert {**expected, "cursor": row["cursor"]} == row
        assert export(http, limit=4, cursor=found[2]["cursor"]) == found[3:7]
        assert export(http, limit=23) == found
        assert export(http, cursor=found[-1]["cursor"]) == []
        assert export(http, source="s1", limit=10_000) == found[1::2]
        assert export(http, source="s1", limit=2, cursor=found[4]["cursor"]) == found[5:8:2]
        since = found[5]["created_at"]
        assert export(http, created_after=since) == found[:5]


def test_a_deleted_trace_is_missing_and_a_page_is_full(
    database: Database, http: TestClient, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = post(http, *(make_trace(n) for n in range(9)))[::-1]
    monkeypatch.setattr(exports, "BLOCK_BYTES", 1)
    blocks = database.exports.iter_blocks()
    assert [row.id for row in next(blocks)] == ids[:1]
    database.delete(ids[1])
    post(http, make_trace(99))
    assert [[row.id for row in rows] for rows in blocks] == [[], *([one] for one in ids[2:])]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": 0}, "limit must be between 1 and 10000"),
        ({"limit": 10_001}, "limit must be between 1 and 10000"),
        ({"cursor": "nonsense"}, "Invalid cursor"),
        ({"created_after": "2026"}, "expected a date"),
    ],
)
def test_wrong_queries_are_refused(http: TestClient, query: dict[str, Any], words: str) -> None:
    reply = http.get("/api/traces/export.jsonl", params=query)
    assert (reply.status_code, words in reply.text) == (422, True)
