"""The client against a real server on loopback that fails as scripted."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tuneloop.errors import DataError, PermissionDenied, SpecError, Unavailable
from tuneloop.store.db.database import Database
from tuneloop.traces.client import TraceClient

Answer = tuple[int, dict[str, str], bytes]
HEALTHY: Answer = (200, {}, b'{"status":"healthy"}')
HANG_UP: Answer = (0, {}, b"")


class Script(ThreadingHTTPServer):
    """A server that gives the scripted replies in turn and repeats the last one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Scripted)
        self.answers: list[Answer] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Scripted(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.server.bodies.append(self.rfile.read(length))
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        status, headers, body = self.server.next_answer()
        if status == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Suppress the log."""


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(script: Script) -> Iterator[TraceClient]:
    with TraceClient(script.url, connect_seconds=0.5, retry_seconds=1.5) as made:
        yield made


def stored(*ids: str) -> Answer:
    reply = {"created_count": len(ids), "traces": [{"id": one} for one in ids]}
    return 201, {}, json.dumps(reply).encode()


def test_with_the_real_store(
    store_url: str, database: Database, make_trace: Callable[..., dict[str, Any]]
) -> None:
    batch = [make_trace(n) for n in range(3)]
    with TraceClient(store_url) as client:
        client.health()
        ids = client.post_batch(batch, "run/1")
        assert client.post_batch(batch, "run/1") == ids
        built = client.build_dataset({"dataset_name": "d", "dataset_version": "v1"})
        assert built["trace_count"] == database.count() == 3
        with pytest.raises(DataError, match=r"status 409: Idempotency-Key 'run/1' was used"):
            client.post_batch(batch[:1], "run/1")
        with pytest.raises(DataError, match=r"status 422: body\.1\.prompt: String should have"):
            client.post_batch([make_trace(), make_trace(prompt="")], "run/2")


@pytest.mark.parametrize("failure", [(503, {}, b""), (429, {}, b"x"), (502, {}, b""), HANG_UP])
def test_tries_again_with_the_same_key_and_bytes(
    script: Script, client: TraceClient, failure: Answer
) -> None:
    script.answers = [failure, failure, stored("a", "b")]
    assert client.post_batch([{"z": 1, "a": "é"}, {}], "key/1") == ["a", "b"]
    assert len(script.bodies) == 3
    assert set(script.bodies) == {'[{"a": "é", "z": 1}, {}]'.encode()}
    assert {one["idempotency-key"] for one in script.headers} == {"key/1"}


def test_waits_as_long_as_it_is_asked_to(script: Script, client: TraceClient) -> None:
    script.answers = [(503, {"retry-after": "1"}, b""), HEALTHY]
    started = time.monotonic()
    client.health()
    assert time.monotonic() - started >= 1


def test_does_not_wait_longer_than_it_may(script: Script, client: TraceClient) -> None:
    script.answers = [(429, {"retry-after": "60"}, b"")]
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"does not answer \(status 429\); start it with"):
        client.health()
    assert time.monotonic() - started < 1


def test_gives_up_on_a_store_that_stays_busy(script: Script, client: TraceClient) -> None:
    script.answers = [(503, {}, b"")]
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"status 503"):
        client.health()
    assert time.monotonic() - started < 3
    assert len(script.bodies) > 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_store_that_is_not_there_is_said_soon() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with TraceClient(url, connect_seconds=0.4) as client, pytest.raises(Unavailable) as caught:
        client.health()
    assert time.monotonic() - started < 2
    assert str(caught.value) == (
        f"{url}: the trace store does not answer (connection refused);"
        " start it with `tuneloop serve`, or set execution.store_url"
    )


def test_a_store_that_starts_late_is_found() -> None:
    port = free_port()
    server: list[ThreadingHTTPServer] = []

    def late() -> None:
        time.sleep(0.3)
        server.append(ThreadingHTTPServer(("127.0.0.1", port), Scripted))
        server[0].next_answer = lambda: HEALTHY  # type: ignore[attr-defined]
        server[0].bodies = server[0].headers = []  # type: ignore[attr-defined]
        server[0].serve_forever(0.01)

    thread = threading.Thread(target=late)
    thread.start()
    with TraceClient(f"http://127.0.0.1:{port}", connect_seconds=5) as client:
        client.health()
    server[0].shutdown()
    server[0].server_close()
    thread.join()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_identity_is_a_permission(
    script: Script, client: TraceClient, status: int
) -> None:
    script.answers = [(status, {}, b"{}")]
    with pytest.raises(PermissionDenied, match=f"status {status}"):
        client.health()
    assert len(script.bodies) == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail":"No\\n such"}', "No such"),
        (b'{"detail":[{"loc":["body",3,"steps"],"msg":"bad"},{}]}', "body.3.steps: bad (and 1 mo"),
        (b"<html>", "Unprocessable"),
        (b'{"detail":"' + b"x" * 9999 + b'"}', "xxx"),
    ],
)
def test_a_refusal_carries_what_the_store_said(
    script: Script, client: TraceClient, body: bytes, text: str
) -> None:
    script.answers = [(422, {}, body)]
    with pytest.raises(DataError) as caught:
        client.build_dataset({})
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert len(script.bodies) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b"Internal Server Error"),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (302, {"location": "/login"}, b""),
    ],
)
def test_something_else_at_the_address(script: Script, client: TraceClient, answer: Answer) -> None:
    script.answers = [answer]
    with pytest.raises(Unavailable, match=f"answered with status {answer[0]}, expected the reply"):
        client.health()


@pytest.mark.parametrize(
    ("answer", "count"), [(stored("a"), 1), ((201, {}, b'{"traces":[1]}'), 0), (HEALTHY, 0)]
)
def test_a_reply_that_lacks_traces(
    script: Script, client: TraceClient, answer: Answer, count: int
) -> None:
    script.answers = [answer]
    with pytest.raises(Unavailable, match=f"the reply has {count} trace ids, expected 2"):
        client.post_batch([{}, {}], "k")


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_what_json_cannot_hold_is_not_sent(
    script: Script, client: TraceClient, value: object
) -> None:
    with pytest.raises(DataError, match="cannot be sent"):
        client.post_batch([{"x": value}], "k")
    assert not script.bodies


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://a:b:c", ""])
def test_refuses_what_is_no_http_url(url: str) -> None:
    with pytest.raises(SpecError, match="store URL: "):
        TraceClient(url)


def test_never_shows_a_credential() -> None:
    url = f"http://me:secret@127.0.0.1:{free_port()}"
    with TraceClient(url, connect_seconds=0.1) as client, pytest.raises(Unavailable) as caught:
        client.health()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(client)


def test_traces_are_walked_page_by_page(store: str) -> None:
    with TraceClient(store) as client:
        traces = [
            {
                "trace_version": "1.0",
                "prompt": f"p{n}",
                "final_answer": "a",
                "steps": [{"i": 0, "type": "reason", "content": "é🟡"}],
                "meta": {"source": "xy"[n % 2]},
            }
            for n in range(230)
        ]
        ids = client.post_batch(traces, "k")
        assert [row["id"] for row in client.iter_traces()] == ids[::-1]
        assert [row["id"] for row in client.iter_traces(limit=103)] == ids[:126:-1]
        assert [row["id"] for row in client.iter_traces(source="y")] == ids[1::2][::-1]
        assert client.get_trace(ids[3])["payload"] == traces[3]
