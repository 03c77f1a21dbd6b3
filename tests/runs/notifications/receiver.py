"""A webhook on loopback that answers as it is told, and keeps every request."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG, DRIP, HANG_UP = 0, 1, 2
"""In place of a status: never answer, answer one byte at a time for ever, close the connection."""


@dataclass
class Request:
    """A request that was received."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """The receiving end of a webhook."""

    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; then 204."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of every answer."""
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def types(self) -> list[str]:
        """The events without repetitions, with their stage."""
        found = [(each.json["type"], each.json["data"]["stage"]) for each in self.requests]
        return [f"{kind.removeprefix('dev.tuneloop.')} {stage or '-'}" for kind, stage in found]


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request(self.path, dict(self.headers), body, time.monotonic())
            receiver.requests.append(request)
            answer = receiver.answers.pop(0) if receiver.answers else 204
            if answer == HANG:
                receiver.stop.wait(60)
            elif answer == DRIP:
                with contextlib.suppress(OSError):
                    while not receiver.stop.wait(0.05):
                        self.wfile.write(b"H")
            elif answer == HANG_UP:
                self.close_connection = True
            else:
                self.send_response(answer)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def receiving(*answers: int, **headers: str) -> Iterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(list(answers), headers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(receiver))
    server.daemon_threads = True
    server.block_on_close = False
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
