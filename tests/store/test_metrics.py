"""Metrics: what is counted, and that clients cannot create label values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.store_fixtures import CATALOG
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.metrics import Metrics
from tuneloop.store.middleware.auth import new_token, parse_tokens

Make = Callable[..., dict[str, Any]]
BATCH = "/api/traces/batch"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def value(http: TestClient, name: str, **labels: str) -> float:
    """Sum the samples that have these labels."""
    families = parse_text(http.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def build(http: TestClient, **fields: Any) -> Any:
    wanted = {"dataset_name": "d", "dataset_version": "v1", **fields}
    return http.post("/api/datasets/build", json=wanted)


def test_the_format_is_what_the_scraper_asks_for(http: TestClient) -> None:
    plain = http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in parse_text(plain.text)}
    assert {"process_cpu_seconds", "python_gc_objects_collected", "tuneloop_build_info"} <= names
    modern = http.get("/metrics", headers={"Accept": OPENMETRICS})
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert "tuneloop_http_requests" in {family.name for family in parse_openmetrics(modern.text)}
    assert value(http, "tuneloop_build_info") == 1


def test_each_application_has_its_own(http: TestClient, app: FastAPI) -> None:
    http.get("/healthz")
    assert b'route="/healthz"' in app.state.service.metrics.render("")[0]
    assert b'route="/healthz"' not in Metrics().render("")[0]


def test_requests_are_counted_by_template(http: TestClient, make_trace: Make) -> None:
    body = json.dumps(make_trace()).encode()
    made = http.post("/api/traces", content=body).json()
    for path in (made["id"], "00000000-0000-4000-8000-000000000000", "x"):
        http.get(f"/api/traces/{path}")
    requests, route = "tuneloop_http_requests_total", "/api/traces/{trace_id}"
    assert value(http, requests, route="/api/traces", method="POST", status="201") == 1
    codes = [value(http, requests, route=route, status=code) for code in ("200", "404", "422")]
    assert codes == [1, 1, 1]
    assert value(http, "tuneloop_http_request_duration_seconds_count", route=route) == 3
    stored = value(http, "tuneloop_http_request_body_bytes_total", route="/api/traces")
    assert stored == len(body)
    assert value(http, "tuneloop_http_response_body_bytes_total", route="/healthz") == 0
    assert value(http, "tuneloop_http_requests_in_flight") == 1  # The scrape itself is counted too.


def test_no_client_makes_up_a_label(http: TestClient) -> None:
    for n in range(20):
        http.request(f"M{n}", f"/nowhere/{n}")
        http.get(f"/api/datasets/key{n}/export.jsonl?format=f{n}")
        http.request(f"M{n}", "/api/traces")
    text = http.get("/metrics").text
    assert "nowhere" not in text
    assert "key1" not in text
    assert "M1" not in text
    assert 'format="' not in text
    requests = "tuneloop_http_requests_total"
    assert value(http, requests, method="other", route="none", status="404") == 20
    assert value(http, requests, method="other", route="/api/traces", status="405") == 20


def test_traces_are_counted_once(http: TestClient, make_trace: Make) -> None:
    traces = [make_trace(n) for n in range(7)]
    for _ in range(2):
        assert http.post(BATCH, json=traces, headers={"Idempotency-Key": "k"}).status_code == 201
    http.post("/api/traces", json=make_trace())
    http.post(BATCH, json=[])
    assert value(http, "tuneloop_traces_stored_total") == 8
    assert value(http, "tuneloop_batch_traces_count") == 2
    assert value(http, "tuneloop_batch_traces_sum") == 8
    assert value(http, "tuneloop_batch_traces_bucket", le="1.0") == 1


def test_builds_and_exports_are_counted_by_outcome(
    http: TestClient, make_trace: Make, artifacts: Path
) -> None:
    http.post(BATCH, json=[make_trace(n) for n in range(5)])
    builds, exports = (f"tuneloop_dataset_{what}_duration_seconds" for what in ("build", "export"))
    for fields in ({}, {}, {"seed": 8}, {"filters": {"no": 1}, "dataset_version": "v2"}):
        build(http, **fields)
    outcomes = ("created", "existing", "conflict", "empty", "failed")
    assert [value(http, f"{builds}_count", outcome=one) for one in outcomes] == [1, 1, 1, 1, 0]
    assert value(http, "tuneloop_dataset_build_traces_total") == 5
    http.get("/api/datasets/d-v1/export.jsonl?format=ids")
    assert value(http, f"{exports}_count", format="ids", outcome="complete") == 1
    assert value(http, "tuneloop_dataset_export_records_total", format="ids") == 5
    (shard,) = artifacts.rglob("traces-*.jsonl")
    shard.write_bytes(shard.read_bytes().replace(b"add one", b"add two", 1))
    assert http.get("/api/datasets/d-v1/export.jsonl").status_code == 500
    assert value(http, f"{exports}_count", format="trace", outcome="failed") == 1
    build(http, recipe="unknown")
    # The export was refused before it started.
    assert value(http, f"{builds}_count", outcome="failed") == 0


def test_metrics_need_the_read_role(database: Database, artifacts: Path) -> None:
    token, line = new_token("prometheus", "read")
    tokens = parse_tokens(line, "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=tokens)
    with TestClient(app) as client:
        assert client.get("/metrics").status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/metrics", headers=headers).status_code == 200
        counted = 'tuneloop_http_requests_total{method="GET",route="none",status="401"} 1.0'
        assert counted in client.get("/metrics", headers=headers).text


@pytest.mark.parametrize("closed_after", [0, 1])
def test_an_export_nobody_reads_to_the_end(closed_after: int) -> None:
    metrics = Metrics()

    def stream() -> Any:
        with metrics.exporting("trace") as job:
            yield b"a"
            yield b"b"
            job.outcome = "complete"

    blocks = stream()
    next(blocks)
    for _ in range(closed_after):
        next(blocks)
    blocks.close()
    assert b'format="trace",outcome="disconnected"' in metrics.render("")[0]
