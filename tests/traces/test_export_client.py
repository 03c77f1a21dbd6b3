"""Reading many traces from a real store, through a proxy that breaks connections."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tuneloop.errors import Unavailable
from tuneloop.traces import export_client
from tuneloop.traces.client import TraceClient
from tuneloop.traces.export_client import iter_exported


class Breaking(BaseHTTPRequestHandler):
    """Passes requests on, and sends only the beginning of every other reply."""

    server: BreakingProxy

    def do_GET(self) -> None:
        reply = httpx.get(f"{self.server.target}{self.path}")
        self.server.paths.append(self.path)
        content = self.server.changed or reply.content
        size = len(content)
        is_cut = len(self.server.paths) % 2
        sent = self.server.draw.randrange(size + 1) if is_cut else size
        self.send_response(reply.status_code)
        self.send_header("content-length", str(size))
        self.end_headers()
        self.wfile.write(content[:sent])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Suppress the log."""


class BreakingProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Breaking)
        self.target, self.draw = target, random.Random(3)
        self.paths: list[str] = []
        self.changed = b""


@contextmanager
def breaking(store: str) -> Iterator[tuple[BreakingProxy, TraceClient]]:
    with BreakingProxy(store) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        with TraceClient(f"http://127.0.0.1:{proxy.server_address[1]}", retry_seconds=20) as client:
            try:
                yield proxy, client
            finally:
                proxy.shutdown()
                thread.join()


def test_every_trace_arrives_once_however_often_the_connection_breaks(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_client, "PAGE_TRACES", 20)
    traces = [
        {
            "trace_version": "1.0",
            "prompt": f"p{n} \u2028 é🟡",
            "final_answer": "5",
            "steps": [{"i": 0, "type": "reason", "content": "so"}],
            "meta": {"source": "xy"[n % 2], "long": "x" * (300_000 if n == 17 else n * 40)},
        }
        for n in range(60)
    ]
    with TraceClient(store) as client:
        ids = client.post_batch(traces, "k")
        assert [row["payload"] for row in iter_exported(client)] == traces[::-1]
        assert [row["id"] for row in iter_exported(client, limit=41)] == ids[:18:-1]
        assert [row["id"] for row in iter_exported(client, limit=20, source="x")] == ids[-2:18:-2]
    with breaking(store) as (proxy, client):
        assert [row["id"] for row in iter_exported(client)] == ids[::-1]
        assert 4 < len(proxy.paths) <= 8  # three pages and an empty one, up to twice


def test_a_page_that_is_no_export_is_named(store: str) -> None:
    with breaking(store) as (proxy, client):
        proxy.changed = b'{"detail": "something else"}\n'
        with pytest.raises(Unavailable, match="a line of the export is no trace"):
            list(iter_exported(client))
