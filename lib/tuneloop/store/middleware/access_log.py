"""One log line and one measurement a request, whatever becomes of it.

One rule: a line never holds a body, a query, a header or a token; the request id, which a client
may choose, is checked, and a path is cut and escaped. It is the outermost middleware, so that
refusals, broken connections and bugs are seen too.
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

CLIENT_WENT = 499
"""Status of a request whose client went before there was a reply, as nginx has it."""
MAX_PATH_CHARACTERS = 256

access = logging.getLogger("tuneloop.access")

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_BUG = json.dumps({"detail": "Internal Server Error"}).encode()


class Observer:
    """ASGI middleware that gives each request an id, logs and measures it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Watch an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and see it to its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Request(scope, receive, send)
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, seen.receive, seen.send)
        except Exception as e:
            e.add_note(f"request {seen.request_id}")  # the server logs the traceback
            await seen.reply_to_bug(e)
            raise
        except asyncio.CancelledError:  # the server stops and does not wait any longer
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
    """A request as it passes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._began, self._start = datetime.now(UTC), time.monotonic()
        self._path, self._root = scope["path"], scope.get("root_path", "")
        self._sent_status: int | None = None
        self._complete = self._went = False
        self.bytes_in = self.bytes_out = 0
        self.error: str | None = None
        self.request_id = _request_id(scope)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
        elif not self._complete:
            self._went = True
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
        """A 500 that says nothing; where a reply has begun, all that is left is to break it off."""
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
        return CLIENT_WENT if self._sent_status is None else self._sent_status

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def route(self) -> str | None:
        """The template that the path fits; None without one."""
        scope = self._scope
        if found := getattr(scope.get("route"), "path", None):
            return str(found)
        root: str = scope.get("root_path", "")
        if root != self._root:  # below a mounted application
            return f"{root}/*"
        has_own_route = "endpoint" in scope and not scope.get("path_params")
        return self._path if has_own_route else None

    def line(self) -> dict[str, Any]:
        """What is logged."""
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
        if self._went:
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
