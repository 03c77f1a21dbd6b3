"""A small HTTP server with OpenAI's protocol of chat completions, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = dict[str, Any] | bytes
Fault = Callable[["Handler", int], bool]
"""Called with the request and its number; returns whether it has answered."""


def completion(
    text: str | None, reason: str | None = "stop", tokens: int | None = 3, **message: Any
) -> Reply:
    reply: dict[str, Any] = {
        "object": "chat.completion",
        "model": "served",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": reason,
            }
        ],
    }
    if tokens is not None:
        reply["usage"] = {"prompt_tokens": 9, "completion_tokens": tokens}
    return reply


class Handler(BaseHTTPRequestHandler):
    """Answers with the last message in capitals."""

    protocol_version = "HTTP/1.1"
    server: Served

    def log_message(self, *values: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version":
            self.send(200, {"version": "0.11.0"})
        else:
            self.send(200, {"object": "list", "data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            if self.path != "/v1/chat/completions":
                self.send(404, {"detail": "Not Found"})
            elif self.server.fault is None or not self.server.fault(self, number):
                self.send(200, completion(body["messages"][-1]["content"].upper()))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def send(self, status: int, value: Reply, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Served(ThreadingHTTPServer):
    """The server, what reached it, and the fault in front of it."""

    daemon_threads = True

    def __init__(self, fault: Fault | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.lock = fault, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that ended its wait


@contextlib.contextmanager
def serving(fault: Fault | None = None) -> Iterator[Served]:
    server = Served(fault)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
