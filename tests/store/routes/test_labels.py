"""Labels and scores over HTTP: who gave them, what is refused, and that a retry stores nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import Make, post_raw
from tests.store.web.looking import post
from tests.store_fixtures import CATALOG
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.middleware.auth import new_token, parse_tokens

LABELS = "/api/labels/batch"
SCORES = "/api/scores/batch"
NOWHERE = "00000000-0000-4000-8000-000000000000"


def label(http: TestClient, trace_id: str, **fields: Any) -> Any:
    body = {"value": "accept", "who": "ada", **fields}
    return http.post(f"/api/traces/{trace_id}/labels", json=body)


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        ("accept", "accept"),
        ("", ""),
        ("مقبول 👩🏽‍🚀 \u202e", "مقبول 👩🏽‍🚀 \u202e"),
        (True, True),
        (0, 0),
        (1.0, 1),
        (-0.25, -0.25),
        (2**53, 2**53),
    ],
)
def test_a_label_comes_back(
    http: TestClient, make_trace: Make, value: Any, comes_back: Any
) -> None:
    (trace_id,) = post(http, make_trace())
    reply = label(http, trace_id, value=value, name="quality", reason="because\nof this")
    assert reply.status_code == 201, reply.text
    found = reply.json()
    expected = {"name": "quality", "who": "ada", "reason": "because\nof this"}
    assert expected.items() <= found.items()
    assert (found["value"], type(found["value"])) == (comes_back, type(comes_back))
    assert http.get(f"/api/traces/{trace_id}/labels").json() == {
        "data": [found],
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": None}, "value"),
        ({"value": ["accept"]}, "Value should be text of at most 1000 characters"),
        ({"value": "x" * 1001}, "at most 1000 characters"),
        ({"value": "a\x00b"}, "NUL"),
        ({"reason": "x" * 2001}, "at most 2000 characters"),
        ({"name": "two words"}, "name"),
        ({"name": ""}, "name"),
        ({"who": " ada"}, "who"),
        ({"who": "a\nb"}, "who"),
        ({"who": "x" * 129}, "who"),
        ({"who": None}, "who is missing: a store without tokens"),
    ],
)
def test_what_is_no_label_is_refused(
    http: TestClient, make_trace: Make, fields: dict[str, Any], words: str
) -> None:
    (trace_id,) = post(http, make_trace())
    reply = label(http, trace_id, **fields)
    assert (reply.status_code, words in reply.text) == (422, True), reply.text
    assert http.get(f"/api/traces/{trace_id}/labels").json()["data"] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"value": NaN, "who": "a"}', b'{"value":"\\ud800","who":"a"}']
)
def test_broken_bodies_are_refused(http: TestClient, make_trace: Make, body: bytes) -> None:
    (trace_id,) = post(http, make_trace())
    for path in (f"/api/traces/{trace_id}/labels", LABELS, SCORES):
        assert post_raw(http, body, path).status_code in (400, 422), path


def test_unknown_traces_are_named_and_nothing_is_stored(http: TestClient, make_trace: Make) -> None:
    (trace_id,) = post(http, make_trace())
    assert label(http, NOWHERE).status_code == 404
    assert http.get(f"/api/traces/{NOWHERE}/labels").status_code == 404
    assert http.get(f"/api/traces/{NOWHERE}/scores").status_code == 404
    for path, more in (
        (LABELS, {"value": 1, "who": "a"}),
        (SCORES, {"criteria": "exact", "score": 1}),
    ):
        reply = http.post(path, json=[{"trace_id": one, **more} for one in (trace_id, NOWHERE)])
        assert (reply.status_code, reply.json()["detail"]) == (404, f"Trace {NOWHERE} not found")
    assert http.get("/api/labels").json()["data"] == []
    assert http.get(f"/api/traces/{trace_id}/scores").json()["data"] == []


def test_a_batch_is_stored_whole_once(http: TestClient, make_trace: Make) -> None:
    ids = post(http, *(make_trace(n) for n in range(3)))
    rows = [
        {"trace_id": one.upper(), "name": "review", "value": n, "who": "ada"}
        for n, one in enumerate(ids)
    ]
    first = http.post(LABELS, json=rows, headers={"Idempotency-Key": "k"})
    assert (first.status_code, first.json()["created_count"]) == (201, 3)
    lines = "\n".join(map(json.dumps, rows)).encode()
    again = post_raw(http, lines, LABELS, content_type="application/x-ndjson", idempotency_key="k")
    assert again.json() == first.json()
    assert http.get("/api/labels").json()["data"] == first.json()["labels"]
    other = http.post(LABELS, json=rows[:2], headers={"Idempotency-Key": "k"})
    assert (other.status_code, "for 3 other labels" in other.text) == (409, True)
    # Traces, labels and scores have keys of their own.
    post_raw(http, json.dumps([make_trace()]).encode(), idempotency_key="k")
    http.delete(f"/api/traces/{ids[1]}")
    assert [row["trace_id"] for row in http.get("/api/labels").json()["data"]] == [ids[0], ids[2]]
    gone = http.post(LABELS, json=rows, headers={"Idempotency-Key": "k"})
    assert gone.status_code == 404


@pytest.mark.parametrize("path", [LABELS, SCORES])
def test_batches_have_bounds(http: TestClient, path: str) -> None:
    assert http.post(path, json=[]).status_code == 400
    assert http.post(path, json=[{}] * 1001).status_code == 400
    reply = http.post(path, json=[{}] * 1000)
    assert (reply.status_code, len(reply.json()["detail"])) == (422, 100)
    assert post_raw(http, b" " * (9 << 20), path).status_code == 413


def test_labels_are_listed_by_page_name_and_reviewer(http: TestClient, make_trace: Make) -> None:
    (trace_id,) = post(http, make_trace())
    for n in range(5):
        label(http, trace_id, value=n, who="ada" if n % 2 else "bob", name=f"n{n % 3}")
    first = http.get("/api/labels?limit=3").json()
    second = http.get(f"/api/labels?limit=3&cursor={first['next_cursor']}").json()
    assert [one["value"] for one in first["data"] + second["data"]] == [0, 1, 2, 3, 4]
    assert second["next_cursor"] is None
    assert [one["value"] for one in http.get("/api/labels?who=ada").json()["data"]] == [1, 3]
    assert [one["value"] for one in http.get("/api/labels?name=n0").json()["data"]] == [0, 3]
    for query in ("limit=0", "limit=1001", "cursor=nonsense"):
        assert http.get(f"/api/labels?{query}").status_code == 422


def test_a_token_names_the_reviewer(database: Database, artifacts: Path, make_trace: Make) -> None:
    tokens = {role: new_token(f"{role}er", role) for role in ("read", "write")}
    lines = parse_tokens("\n".join(line for _, line in tokens.values()), "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=lines)
    with TestClient(app, headers={"Authorization": f"Bearer {tokens['write'][0]}"}) as http:
        (trace_id,) = post(http, make_trace())
        path = f"/api/traces/{trace_id}/labels"
        assert http.post(path, json={"value": "accept"}).json()["who"] == "writeer"
        assert http.post(path, json={"value": "x", "who": "writeer"}).status_code == 201
        refused = http.post(path, json={"value": "accept", "who": "someone"})
        assert refused.status_code == 422
        assert "'writeer', the name of the token" in refused.text
        reader = {"Authorization": f"Bearer {tokens['read'][0]}"}
        assert http.post(path, json={"value": "accept"}, headers=reader).status_code == 403
        assert len(http.get(path, headers=reader).json()["data"]) == 2


def test_scores_are_stored_once_and_listed(http: TestClient, make_trace: Make) -> None:
    ids = post(http, make_trace(0), make_trace(1))
    rows = [
        {"trace_id": one, "criteria": "numeric", "score": n, "details": {"state": "ü", "n": [n]}}
        for n, one in enumerate(ids)
    ]
    for _ in range(2):
        reply = http.post(SCORES, json=rows, headers={"Idempotency-Key": "k"})
        assert (reply.status_code, reply.json()) == (
            201,
            {"created_count": 2, "unknown_count": 0},
        )
    more = [{**rows[0], "trace_id": NOWHERE}, {**rows[0], "criteria": "exact"}]
    skipped = http.post(f"{SCORES}?unknown=skip", json=more)
    assert skipped.json() == {"created_count": 1, "unknown_count": 1}
    assert http.post(f"{SCORES}?unknown=skip", json=more[:1]).json()["created_count"] == 0
    (found,) = http.get(f"/api/traces/{ids[1]}/scores").json()["data"]
    assert {"criteria": "numeric", "score": 1.0, "details": rows[1]["details"]}.items() <= (
        found.items()
    )
    assert http.post(f"/api/traces/{ids[1]}/score").status_code == 201
    listed = http.get(f"/api/traces/{ids[1]}/scores").json()["data"]
    assert [one["criteria"] for one in listed] == ["numeric", "baseline"]
    long = [{**rows[0], "details": {"x": "y" * 5000}}]
    refused = http.post(SCORES, json=long)
    assert (refused.status_code, "at most 4096" in refused.text) == (422, True)
