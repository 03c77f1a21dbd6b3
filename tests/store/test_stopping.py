"""A store ends soon after SIGTERM, whatever its clients and its database do."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import time
from pathlib import Path

from tests.store.stores import Store

_HEAD = b"POST /api/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_TRACE = {
    "trace_version": "1.0",
    "prompt": "p",
    "steps": [{"i": 0, "type": "t", "content": "c"}],
    "final_answer": "a",
}


def test_a_store_ends_without_the_requests_that_do_not(tmp_path: Path) -> None:
    file, log = tmp_path / "store.db", tmp_path / "log"
    store = Store(
        f"sqlite:///{file}", tmp_path, log, env={"TUNELOOP_LIMIT_STOP_SECONDS": "2", "HOME": "/"}
    )
    body = json.dumps(_TRACE).encode()
    whole = _HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    begun = [b"", b"GET / HTT", _HEAD + b"Content-Length: 900\r\n\r\n[", whole]
    try:
        store.wait_until_ready()
        with contextlib.ExitStack() as held:
            writer = held.enter_context(contextlib.closing(sqlite3.connect(file)))
            writer.execute("BEGIN IMMEDIATE")  # The request waits for it in a thread, up to 30 s.
            for sent in begun:
                client = held.enter_context(socket.create_connection(("127.0.0.1", store.port), 10))
                client.sendall(sent)
            time.sleep(0.2)
            store.process.send_signal(signal.SIGTERM)
            assert store.process.wait(timeout=20) == 128 + signal.SIGTERM
            assert client.recv(1) == b"", "it was acknowledged"
    finally:
        store.process.kill()
        store.process.wait()
    assert "work was in progress 2 s after SIGTERM" in log.read_text()
    assert "TUNELOOP_LIMIT_STOP_SECONDS" in log.read_text()
    assert "Traceback" not in log.read_text()
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM traces").fetchone() == (0,)
