"""Write one access log line per request and update the metrics.

A line never contains a body, a query, a header or a token. The request id of a client is checked,
and the path is cut and escaped. This is the outermost middleware, so it also sees refused requests,
broken connections and unexpected errors.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.store.metrics import Metrics
from tuneloop.traces.schema import utc_text

CLIENT_CLOSED = 499
"""Status of a request whose client disconnected before the reply; nginx uses the same number."""
MAX_PATH_CHARACTERS = 256

access = logging.getLogger("tuneloop.access")

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_BUG = json.dumps({"detail": "Internal Server Error"}).encode()


class Observer:
    """ASGI middleware that gives each request an id, logs and measures it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log and measure it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Request(scope, receive, send)
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, seen.receive, seen.send)
        except Exception as e:
            e.add_note(f"request {seen.request_id}")  # The server logs the traceback.
            await seen.reply_to_bug(e)
            raise
        except asyncio.CancelledError:  # The server stops without waiting for the request.
            seen.error = "cancelled"
            raise
        finally:
            self._metrics.in_flight.dec()
            self._metrics.request_ended(
                scope["method"],
                seen.route,
                seen.status,
                seconds=seen.seconds,
                bytes_in=seen.bytes_in,
                bytes_out=seen.bytes_out,
            )
            if access.isEnabledFor(logging.INFO):
                access.info(json.dumps(seen.line()))


class _Request:
    """Observations about one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._began, self._start = datetime.now(UTC), time.monotonic()
        self._path, self._root = scope["path"], scope.get("root_path", "")
        self._sent_status: int | None = None
        self._complete = self._disconnected = False
        self.bytes_in = self.bytes_out = 0
        self.error: str | None = None
        self.request_id = _request_id(scope)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
        elif not self._complete:
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._sent_status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)
        if message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)

    async def reply_to_bug(self, error: Exception) -> None:
        """Send a 500 without details, unless a reply has begun, which is then aborted."""
        self.error = type(error).__name__
        if self._sent_status is None:
            length = str(len(_BUG)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length)]
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            await self.send({"type": "http.response.body", "body": _BUG})

    @property
    def status(self) -> int:
        if self.error is not None:
            return 500
        return CLIENT_CLOSED if self._sent_status is None else self._sent_status

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def route(self) -> str | None:
        """Return the route template that matches the path, or None if there is none."""
        scope = self._scope
        if found := getattr(scope.get("route"), "path", None):
            return str(found)
        root: str = scope.get("root_path", "")
        if root != self._root:  # The path belongs to a mounted application.
            return f"{root}/*"
        has_own_route = "endpoint" in scope and not scope.get("path_params")
        return self._path if has_own_route else None

    def line(self) -> dict[str, Any]:
        """Build the access log line."""
        client = self._scope.get("client")
        line: dict[str, Any] = {
            "time": utc_text(self._began),
            "request_id": self.request_id,
            "client": client[0] if client else None,
            "token": self._scope.get("state", {}).get("token"),
            "method": self._scope["method"],
            "route": self.route,
            "path": _cut(self._path),
            "status": self.status,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "duration_seconds": round(self.seconds, 6),
        }
        if self._disconnected:
            line["disconnected"] = True
        if self.error is not None:
            line["error"] = self.error
        return line


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return str(given[0].decode("ascii"))
    return uuid.uuid4().hex


def _cut(path: str) -> str:
    return path if len(path) <= MAX_PATH_CHARACTERS else path[: MAX_PATH_CHARACTERS - 1] + "…"
