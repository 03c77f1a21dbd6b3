"""Filters and queries are bounded, with the same replies on both databases."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make, build
from tests.store_fixtures import CATALOG
from tuneloop.settings.limits import Limits
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database

TOO_MUCH = {
    "filters": {f"k{n}": n for n in range(101)},
    "filter_parts": {"/a" * 65: 1},
    "filter_characters": {"k" * 4097: 1},
}


@pytest.mark.parametrize("limit", TOO_MUCH)
def test_filters_past_a_limit_are_refused_with_it(http: TestClient, limit: str) -> None:
    reply = build(http, filters=TOO_MUCH[limit])
    assert reply.status_code == 422
    assert str(getattr(Limits(), limit)) in reply.json()["detail"]
    assert f"TUNELOOP_LIMIT_{limit.upper()}" in reply.json()["detail"]
    assert len(reply.text) < 500


def test_filters_up_to_every_limit_select(http: TestClient, make_trace: Make) -> None:
    deep = json.loads('{"a":' * 60 + "1" + "}" * 60)
    meta = {**{f"k{n}": n for n in range(97)}, "l" * 4096: "é", "deep": deep}
    http.post(BATCH, json=[make_trace(meta=meta), make_trace(meta={**meta, "k96": 0})])
    filters: dict[str, int | str] = {f"k{n}": n for n in range(97)}
    filters |= {"l" * 4096: "é", "/deep" + "/a" * 60: 1, "/k" + "/0" * 63: 1}
    assert build(http, filters=filters).status_code == 422  # Nothing has the last one.
    del filters["/k" + "/0" * 63]
    reply = build(http, filters=filters)
    assert (reply.status_code, reply.json()["trace_count"]) == (201, 1)


def test_limits_of_filters_can_be_changed(database: Database, artifacts: Path) -> None:
    app = create_app(database, str(artifacts), CATALOG, limits=Limits(filters=1))
    with TestClient(app) as http:
        refused = build(http, filters={"a": 1, "b": 2})
        assert refused.status_code == 422
        assert "TUNELOOP_LIMIT_FILTERS" in refused.text


LISTS = ["/api/traces?source={}", "/traces?source={}", "/traces?q={}", "/runs/compare?a={}"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("value", ["\x00", "a\x00b", "é" * 4097])
def test_a_query_that_no_database_takes_is_422(http: TestClient, path: str, value: str) -> None:
    reply = http.get(path.format(quote(value)))
    assert reply.status_code == 422
    if path.startswith("/api"):
        assert reply.json()["detail"][0]["loc"] == ["query", "source"]


@pytest.mark.parametrize(
    "query",
    [
        "source=" + quote("é" * 4096),
        "source=" + quote("\ud7ff\U0010ffff\u202e"),
        "source=%ff%fe",
        "%00=1",
        "created_after=0001-01-01T00:00:00%2B14:00",
        "created_after=9999-12-31T23:59:59-14:00",
        "created_after=9999-12-31T23:59:59.999999Z",
        f"offset={2**63 - 1}",
        "offset=" + "9" * 5000,
        "cursor=" + "A" * 4096,
        "cursor=" + quote("é"),
        "limit=" + "1" * 4000,
        "limit=%00",
    ],
)
def test_odd_queries_get_no_5xx(http: TestClient, query: str) -> None:
    assert http.get(f"/api/traces?{query}").status_code in (200, 422)


@pytest.mark.parametrize("path", ["/api/traces/", "/api/datasets/", "/traces/", "/runs/"])
def test_no_reply_redirects_to_the_host_of_the_client(http: TestClient, path: str) -> None:
    reply = http.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
    assert reply.status_code in (404, 405, 422)
    assert "evil.example" not in str(reply.headers) + reply.text
