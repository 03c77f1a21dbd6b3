"""A local HTTP server with scripted replies, for faults that a real API server cannot produce."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass
class Reply:
    """One reply of the server."""

    status: int = 200
    body: Any = field(default_factory=dict)
    """Bytes are sent as they are, other values as JSON."""
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    """`reset` breaks the connection, `hang` sends nothing, `cut` sends half of the body."""


@dataclass
class Request:
    """One request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class FakeServer:
    """Sends the replies in turn and then repeats the last one."""

    def __init__(self, *replies: Reply | Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self._replies = list(replies)
        self._release = threading.Event()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                headers = {name.title(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                fake.requests.append(request)
                reply = fake._replies.pop(0) if len(fake._replies) > 1 else fake._replies[0]
                fake._send(self, reply(request) if callable(reply) else reply)

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _send(self, handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.fault == "hang":
            self._release.wait(30)
        if reply.fault in ("hang", "reset"):
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        is_raw = isinstance(reply.body, bytes)
        data = reply.body if is_raw else json.dumps(reply.body).encode()
        handler.send_response_only(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "text/plain" if is_raw else "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if reply.fault == "cut":
            handler.wfile.write(data[: len(data) // 2])
            handler.close_connection = True
        else:
            handler.wfile.write(data)

    def kubeconfig(self, folder: Path, user: dict[str, Any]) -> str:
        """Write a kubeconfig for this server, with context `fake`, and return its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "fake", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "fake",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return str(path)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
