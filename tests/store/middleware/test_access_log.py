"""The access log has one line per request, written at the end of the reply, without secrets."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.store_fixtures import CATALOG
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.metrics import Metrics
from tuneloop.store.middleware import access_log
from tuneloop.store.middleware.auth import new_token, parse_tokens

Make = Callable[..., dict[str, Any]]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return the lines of the access log so far."""
    caplog.set_level(logging.INFO, "tuneloop.access")

    def read() -> list[dict[str, Any]]:
        found = [one.getMessage() for one in caplog.records if one.name == "tuneloop.access"]
        assert not [line for line in found if "\n" in line]
        return [json.loads(line) for line in found]

    return read


def test_a_line_says_who_asked_what_and_what_came_of_it(
    http: TestClient, lines: Lines, make_trace: Make
) -> None:
    sent = json.dumps(make_trace()).encode()
    made = http.post("/api/traces", content=sent, headers={"X-Request-ID": "mine/1"})
    assert made.headers["x-request-id"] == "mine/1"
    got = http.get(f"/api/traces/{made.json()['id']}?q=hidden", headers={"Cookie": "hidden"})
    first, second = lines()
    assert first.pop("duration_seconds") >= 0
    assert first.pop("time").endswith("Z")
    assert first == {
        "request_id": "mine/1",
        "client": "testclient",
        "token": None,
        "method": "POST",
        "route": "/api/traces",
        "path": "/api/traces",
        "status": 201,
        "bytes_in": len(sent),
        "bytes_out": len(made.content),
    }
    assert second["route"] == "/api/traces/{trace_id}"
    assert (second["path"], second["bytes_out"]) == (got.request.url.path, len(got.content))
    assert second["request_id"] == got.headers["x-request-id"]
    assert "hidden" not in json.dumps(lines())


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode(), b"a\x01"])
def test_an_odd_request_id_is_replaced(http: TestClient, given: Any) -> None:
    made = http.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
    assert len(made) == 32
    twice = [("X-Request-ID", "a"), ("X-Request-ID", "b")]
    assert len(http.get("/healthz", headers=twice).headers["x-request-id"]) == 32


def test_odd_paths_are_cut_and_escaped(
    http: TestClient, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    http.get("/a%0a%1b%7f%e2%80%a8b")
    http.get("/" + "x" * 5000)
    assert http.get("/docs").status_code == 200
    assert http.get("/docs/").status_code == 404  # A redirect would name the client's host.
    newline, long, docs, _ = lines()
    assert (newline["path"], newline["route"]) == ("/a\n\x1b\x7f\u2028b", None)
    assert len(long["path"]) == access_log.MAX_PATH_CHARACTERS
    assert docs["route"] == "/docs"
    raw = caplog.records[0].getMessage()
    assert "\\n\\u001b" in raw
    assert "\u2028" not in raw


def test_refusals_name_the_token_and_never_show_it(
    database: Database, artifacts: Any, lines: Lines, make_trace: Make
) -> None:
    token, line = new_token("reader", "read")
    tokens = parse_tokens(line, "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=tokens)
    with TestClient(app) as client:
        client.get("/api/traces", headers={"Authorization": "Bearer guessed"})
        bearing = {"Authorization": f"Bearer {token}"}
        client.get("/api/traces", headers=bearing)
        client.post("/api/traces", json=make_trace(), headers=bearing)
        for _ in range(10):
            client.get("/api/traces")
    seen = [(one["status"], one["token"], one["route"]) for one in lines()]
    assert seen[:3] == [(401, None, None), (200, "reader", "/api/traces"), (403, "reader", None)]
    assert seen[-1] == (429, None, None)
    assert token not in json.dumps(lines())
    assert "guessed" not in json.dumps(lines())


def test_a_bug_is_a_500_that_says_nothing(
    app: FastAPI, lines: Lines, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(database, "list", broken)
    with TestClient(app, raise_server_exceptions=False) as client:
        reply = client.get("/api/traces")
    assert (reply.status_code, reply.json()) == (500, {"detail": "Internal Server Error"})
    (line,) = lines()
    assert (line["status"], line["error"]) == (500, "ZeroDivisionError")
    assert line["bytes_out"] == len(reply.content)
    assert reply.headers["x-request-id"] == line["request_id"]
    with TestClient(app) as client, pytest.raises(ZeroDivisionError) as caught:
        client.get("/api/traces", headers={"X-Request-ID": "the-id"})
    assert caught.value.__notes__ == ["request the-id"]


def test_the_traceback_of_a_bug_is_in_the_log_with_the_request_id(
    store_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "list", lambda *_, **__: 1 // 0)
    # The server's own handler may keep the stream of an earlier test.
    handler = logging.StreamHandler(written := io.StringIO())
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        reply = httpx.get(f"{store_url}/api/traces", headers={"X-Request-ID": "the-id"})
        deadline = time.monotonic() + 10  # The line is written after the reply.
        while "request the-id" not in written.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)
    assert (reply.status_code, reply.json()) == (500, {"detail": "Internal Server Error"})
    for expected in ("Traceback", "ZeroDivisionError", "request the-id"):
        assert expected in written.getvalue()


def asgi(
    messages: list[dict[str, Any]], run: Callable[[Any, Any], Any]
) -> tuple[list[Any], access_log.Observer]:
    sent: list[Any] = []
    waiting: Iterator[dict[str, Any]] = iter(messages)

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await run(receive, send)

    observer = access_log.Observer(inner, Metrics())
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "headers": [],
        "client": None,
    }
    anyio.run(observer, scope, receive, send)
    return sent, observer


def test_a_client_that_goes_before_the_reply(lines: Lines) -> None:
    async def run(receive: Any, send: Any) -> None:
        await receive()
        await receive()

    sent, _ = asgi([{"type": "http.request", "body": b"abc"}, {"type": "http.disconnect"}], run)
    assert sent == []
    (line,) = lines()
    assert (line["status"], line["bytes_in"], line["disconnected"]) == (499, 3, True)


def test_a_client_that_goes_amid_the_reply(lines: Lines) -> None:
    async def run(receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"abcd", "more_body": True})
        await receive()

    asgi([{"type": "http.disconnect"}], run)
    (line,) = lines()
    assert (line["status"], line["bytes_out"], line["disconnected"]) == (200, 4, True)


def test_a_reply_that_breaks_off_is_logged_as_500(lines: Lines) -> None:
    async def run(receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asgi([], run)
    (line,) = lines()
    assert (line["status"], line["error"]) == (500, "ValueError")


def test_an_export_that_nobody_reads_to_its_end(
    store_url: str, app: FastAPI, lines: Lines, make_trace: Make
) -> None:
    steps = [{"i": i, "type": "t", "content": "s" * 20_000} for i in range(10)]
    with httpx.Client(base_url=store_url) as client:
        for _ in range(6):
            traces = [make_trace(n, steps=steps) for n in range(20)]
            assert client.post("/api/traces/batch", json=traces).status_code == 201
        client.post("/api/datasets/build", json={"dataset_name": "d", "dataset_version": "v1"})
    with httpx.stream("GET", f"{store_url}/api/datasets/d-v1/export.jsonl") as reply:
        next(reply.iter_bytes())
    deadline = time.monotonic() + 10
    while not lines()[-1]["path"].endswith("export.jsonl") and time.monotonic() < deadline:
        time.sleep(0.01)
    line = lines()[-1]
    assert (line["route"], line["status"]) == ("/api/datasets/{key}/export.jsonl", 200)
    assert line["disconnected"] is True
    assert 0 < line["bytes_out"] < 20_000_000  # The whole export has 24 MB.
    counted = b'count{format="trace",outcome="disconnected"} 1.0'
    assert counted in app.state.service.metrics.render("")[0]


def test_without_a_wish_nothing_is_shown(capfd: pytest.CaptureFixture[str], store_url: str) -> None:
    assert httpx.get(f"{store_url}/healthz").status_code == 200
    assert capfd.readouterr().err == ""
