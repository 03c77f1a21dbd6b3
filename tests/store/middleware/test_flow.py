"""What requests may hold, and how long they may wait for their client."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, BUILD, Make, build
from tests.store.sockets import REPLY_SECONDS, Serve, opened, read_all
from tuneloop.settings.limits import Limits
from tuneloop.store import budget
from tuneloop.store.budget import Budget, Share

MIB = 1 << 20
STALLED = 0.4
"""Seconds after which an unfinished request may lose its memory here."""


@pytest.fixture(autouse=True)
def soon_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "STALLED_SECONDS", 0.3)


ON_SQLITE = pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)


def upload(url: str, size: int, claimed: int | None = None, path: str = BATCH) -> socket.socket:
    """Send a part of a body and keep the connection open."""
    connection = opened(url)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {claimed or size}\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    with contextlib.suppress(ConnectionError):
        connection.sendall(b" " * size)
    return connection


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + REPLY_SECONDS
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_unfinished_bodies_have_a_budget_together(serve: Serve, make_trace: Make) -> None:
    url = serve(bytes_in_flight=16 * MIB)
    with contextlib.ExitStack() as held:
        sent = [held.enter_context(upload(url, 6 * MIB, 10 * MIB)) for _ in range(3)]
        refused, *_ = select.select(sent, [], [], REPLY_SECONDS)[0]
        reply = read_all(refused)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in reply
        assert b"TUNELOOP_LIMIT_BYTES_IN_FLIGHT" in reply
        # Small requests have a reserve.
        assert httpx.post(f"{url}{BATCH}", json=[make_trace()]).status_code == 201
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_stalled_body_makes_room_for_one_that_arrives(serve: Serve, make_trace: Make) -> None:
    url = serve(bytes_in_flight=16 * MIB)
    body = json.dumps([make_trace(n, prompt="p" * 40_000) for n in range(250)])
    with contextlib.ExitStack() as held:
        stalled = [held.enter_context(upload(url, 6 * MIB, 10 * MIB)) for _ in range(2)]
        time.sleep(STALLED)
        assert httpx.post(f"{url}{BATCH}", content=body, timeout=60).status_code == 201
        assert read_all(stalled[0]).startswith(b"HTTP/1.1 503 ")


def test_a_body_that_trickles_is_refused(serve: Serve) -> None:
    url = serve(body_seconds=0.3, body_bytes_per_second=MIB)
    start = time.monotonic()
    with upload(url, 10, 1000) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.02)
        reply = read_all(connection)
    assert time.monotonic() - start < 5
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"TUNELOOP_LIMIT_BODY_SECONDS" in reply


def test_a_slow_body_that_is_fast_enough_arrives(serve: Serve, make_trace: Make) -> None:
    body = json.dumps(make_trace()).encode()

    def slowly() -> Any:
        for n in range(0, len(body), 20):
            yield body[n : n + 20]
            time.sleep(0.05)

    url = serve(body_seconds=0.2, body_bytes_per_second=100)
    assert httpx.post(f"{url}/api/traces", content=slowly()).status_code == 201


@ON_SQLITE
@pytest.mark.parametrize("path", [f"/api/traces/{'0' * 32}/score", BUILD, "/api/traces", "/traces"])
def test_every_body_has_a_maximum(http: TestClient, path: str) -> None:
    body = b'{"a": [' + b"[]," * 400_000 + b"1]}"
    reply = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (403, 413)
    if reply.status_code == 413:
        assert reply.json() == {"detail": "Payload size exceeds maximum of 1048576 bytes"}


EXPORT = "/api/datasets/d-v1/export.jsonl"


def large_trace(make_trace: Make, steps: int = 50) -> dict[str, Any]:
    return make_trace(steps=[{"i": n, "type": "t", "content": "s" * 20_000} for n in range(steps)])


def reading_nothing(url: str, path: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(REPLY_SECONDS)
    connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("path", ["/api/traces/{id}", EXPORT])
def test_replies_that_nobody_reads_have_a_budget(serve: Serve, make_trace: Make, path: str) -> None:
    # The kernel takes a few megabytes of each reply, so the replies are larger.
    url = serve(bytes_in_flight=24 * MIB)
    made = httpx.post(f"{url}{BATCH}", json=[large_trace(make_trace, 400)]).json()
    path = path.format(id=made["traces"][0]["id"])
    httpx.post(f"{url}{BUILD}", json={"dataset_name": "d", "dataset_version": "v1"})
    whole = httpx.get(f"{url}{path}", timeout=REPLY_SECONDS).content
    with contextlib.ExitStack() as held:
        replies = [held.enter_context(reading_nothing(url, path)) for _ in range(10)]
        refused = set()

        def is_refused() -> bool:
            for one in select.select(replies, [], [], 0)[0]:
                if one.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 503":
                    refused.add(one)
            return bool(refused)

        until(is_refused)
        reply = refused.pop().recv(4096)
        assert b"retry-after: 5" in reply
        assert httpx.get(f"{url}/api/traces").status_code == 200
        # Those who do not read are cut off for one who does.
        time.sleep(STALLED)
        assert httpx.get(f"{url}{path}", timeout=REPLY_SECONDS).content == whole


def test_a_reader_that_stops_is_cut_off(serve: Serve, make_trace: Make) -> None:
    url = serve(reply_seconds=0.3)
    httpx.post(f"{url}{BATCH}", json=[large_trace(make_trace) for _ in range(8)])
    httpx.post(f"{url}{BUILD}", json={"dataset_name": "d", "dataset_version": "v1"})
    with reading_nothing(url, EXPORT) as connection:
        time.sleep(0.6)
        received = len(read_all(connection))
    assert 0 < received < 8_000_000


def test_a_share_is_given_back_once() -> None:
    total = Budget(Limits(bytes_in_flight=MIB))
    one, other = Share(total), Share(total)
    lost: list[str] = []
    one.on_loss = lambda: lost.append("one")
    assert one.take(600_000) and not other.take(600_000)
    total.set_waiting(one, True)
    assert not other.take(600_000)  # It has not waited long enough.
    total._waiting[one] -= 2
    assert other.take(600_000)
    assert (lost, one.held, one.take(1), total.used) == (["one"], 0, False, 600_000)
    one.give(5)
    one.close()
    other.close()
    assert total.used == 0


@ON_SQLITE
def test_all_memory_is_given_back(
    serve: Serve, http: TestClient, app: Any, make_trace: Make
) -> None:
    assert http.post(BATCH, json=[large_trace(make_trace)]).status_code == 201
    assert http.post(BATCH, content=b"{").status_code == 422
    build(http)
    assert http.get(EXPORT).status_code == 200
    assert app.state.service.budget.used == 0
