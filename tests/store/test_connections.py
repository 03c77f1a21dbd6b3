"""What one connection may send, and how many there may be, over real sockets."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.store.sockets import REPLY_SECONDS, Serve, opened, read_all
from tuneloop.errors import SpecError
from tuneloop.store.server import _check_proxies


def send_until_refused(url: str, pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """Send until the store closes the connection; returns the bytes sent, and the reply."""
    sent = 0
    with opened(url) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
                time.sleep(0.001)  # Otherwise the kernel's buffers would take a few megabytes.
        return sent, read_all(connection)


ENDLESS = {
    "url": (b"GET /", b"a" * 1000),
    "name": (b"GET / HTTP/1.1\r\n", b"a" * 1000),
    "value": (b"GET / HTTP/1.1\r\nHost: h\r\nA: ", b"a" * 1000),
    "lines": (b"GET / HTTP/1.1\r\nHost: h\r\n", b"a: b\r\n" * 100),
    "trailer": (
        b"POST /api/traces HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"a: b\r\n" * 200,
    ),
    "chunk": (
        b"POST /api/traces HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"a" * 1000,
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_without_an_end_is_refused_early(serve: Serve, kind: str) -> None:
    start, more = ENDLESS[kind]

    def pieces() -> Iterator[bytes]:
        yield start
        for _ in range(2000):
            yield more

    sent, reply = send_until_refused(serve(), pieces())
    assert sent < 500_000
    assert not reply or reply.startswith(b"HTTP/1.1 431 ")


def test_the_refusal_names_the_limit_and_what_changes_it(serve: Serve) -> None:
    url = serve(head_bytes=2000, head_lines=10)
    assert httpx.get(f"{url}/healthz", headers={"a": "b" * 1500}).status_code == 200
    long = httpx.get(f"{url}/healthz", headers={"a": "b" * 2000})
    assert long.status_code == 431
    assert "2000 bytes" in long.json()["detail"]
    assert "TUNELOOP_LIMIT_HEAD_BYTES" in long.json()["detail"]
    many = httpx.get(f"{url}/healthz", headers={f"a{n}": "b" for n in range(20)})
    assert many.status_code == 431
    assert "TUNELOOP_LIMIT_HEAD_LINES" in many.json()["detail"]


def test_a_head_in_small_pieces_and_a_large_body_arrive_whole(
    serve: Serve, make_trace: Callable[..., dict[str, Any]]
) -> None:
    # The body has many line ends and is far longer than a head may be.
    traces = [make_trace(n, prompt="é\n" * 5000) for n in range(50)]
    body = json.dumps(traces, indent=1, ensure_ascii=False).encode()
    head = (
        f"POST /api/traces/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    with opened(serve()) as connection:
        for n in range(0, len(head), 7):
            connection.sendall(head[n : n + 7])
        connection.sendall(body)
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 201 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["created_count"] == 50


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    with opened(serve()) as connection:
        one = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall((one % b"healthz" + b"\r\n") * 5 + one % b"readyz")
        connection.sendall(b"Connection: close\r\n\r\n")
        reply = read_all(connection)
    assert reply.count(b'{"status":"healthy"}') == 5
    assert reply.count(b"HTTP/1.1 200 OK") == 6


def test_a_head_that_takes_too_long_is_refused(serve: Serve) -> None:
    url = serve(head_seconds=0.2)
    start = time.monotonic()
    with opened(url) as silent, opened(url) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        for connection in (slow, silent):
            reply = read_all(connection)
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"TUNELOOP_LIMIT_HEAD_SECONDS" in reply
    assert time.monotonic() - start < 5


def test_the_next_head_on_a_connection_has_a_deadline_too(serve: Serve) -> None:
    with opened(serve(head_seconds=0.2)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he")
        start = time.monotonic()
        assert read_all(connection).count(b"HTTP/1.1 200") == 1
        assert time.monotonic() - start < 5


def test_idle_connections_make_room_for_new_clients(serve: Serve) -> None:
    url = serve(connections=20)
    with contextlib.ExitStack() as idle:
        held = [idle.enter_context(opened(url)) for _ in range(60)]
        for _ in range(10):
            assert httpx.get(f"{url}/healthz", timeout=REPLY_SECONDS).status_code == 200
        assert read_all(held[0]) == b""  # The oldest was closed.


def test_one_address_has_a_limit_of_its_own(serve: Serve) -> None:
    url = serve(connections=20, connections_per_address=5)
    with contextlib.ExitStack() as held:
        first = held.enter_context(opened(url))
        for _ in range(5):
            held.enter_context(opened(url))
        assert read_all(first) == b""
    proxied = serve(("127.0.0.0/8",), connections=20, connections_per_address=2)
    with contextlib.ExitStack() as held:
        first = held.enter_context(opened(proxied))
        for _ in range(5):
            held.enter_context(opened(proxied))
        first.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert read_all(first).startswith(b"HTTP/1.1 200")


def test_only_a_named_proxy_tells_addresses(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    said = {"X-Forwarded-For": "203.0.113.7"}
    with caplog.at_level("INFO", "tuneloop.access"):
        httpx.get(f"{serve()}/healthz", headers=said)
        httpx.get(f"{serve(('127.0.0.1',))}/healthz", headers=said)
    clients = [json.loads(record.message)["client"] for record in caplog.records]
    assert clients == ["127.0.0.1", "203.0.113.7"]


@pytest.mark.parametrize("proxy", ["", "example.org", "*", "10.0.0.1/8", "1.2.3"])
def test_a_proxy_is_an_address_or_a_network(proxy: str) -> None:
    with pytest.raises(SpecError, match="--trusted-proxy"):
        _check_proxies([proxy])
    _check_proxies(["10.0.0.0/8", "::1", "192.0.2.1"])
