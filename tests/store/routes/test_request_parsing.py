"""Request bodies: limits, errors, and that each body is parsed only once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, BUILD, Make, post_raw
from tuneloop.store.db.database import Database
from tuneloop.store.routes import request_parsing


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


@pytest.mark.parametrize("ndjson", [False, True])
def test_a_batch_is_parsed_once(
    http: TestClient, make_trace: Make, monkeypatch: pytest.MonkeyPatch, ndjson: bool
) -> None:
    parsed: list[str] = []

    def counted(name: str) -> Callable[[bytes], Any]:
        parse = getattr(request_parsing, name)

        def count(body: bytes) -> Any:
            parsed.append(name)
            return parse(body)

        return count

    for name in ("fast_trace", "fast_array", "fast_lines"):
        monkeypatch.setattr(request_parsing, name, counted(name))
    line = json.dumps(make_trace()).encode()
    if ndjson:
        assert post_raw(http, line, content_type="application/x-ndjson").status_code == 201
    else:
        assert post_raw(http, b"[" + line + b"]").status_code == 201
    assert parsed == ["fast_lines" if ndjson else "fast_array"]
    assert post_raw(http, line, "/api/traces").status_code == 201
    assert parsed[1:] == ["fast_trace"]


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


def peak_bytes() -> int:
    """Return the peak memory of this process, in which the store runs too."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def test_too_long_a_body_is_refused_without_keeping_it(
    store_url: str, database: Database, make_trace: Make
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4096):  # 256 MiB
            yield b" " * (1 << 16)

    with httpx.Client(base_url=store_url) as client:
        # Resets the peak, which earlier tests of this process have raised.
        Path("/proc/self/clear_refs").write_text("5")
        before_bytes = peak_bytes()
        assert client.post("/api/traces", content=chunks()).status_code == 413
        assert peak_bytes() - before_bytes < 64 << 20
        assert client.post("/api/traces", content=b" " * (4 << 20)).status_code == 413
        assert client.post(BATCH, content=b" " * ((64 << 20) + 1)).status_code == 413
        parts = iter([b"[", json.dumps(make_trace()).encode(), b"]"])
        assert client.post(BATCH, content=parts).status_code == 201
    assert database.count() == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é".encode("latin-1")])
def test_bad_idempotency_keys(http: TestClient, make_trace: Make, key: Any) -> None:
    reply = http.post(BATCH, json=[make_trace()], headers={"Idempotency-Key": key})
    assert reply.status_code == 422


def test_openapi_describes_the_bodies(http: TestClient) -> None:
    described = http.get("/openapi.json").json()["paths"]
    body = described[BATCH]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-ndjson"}
