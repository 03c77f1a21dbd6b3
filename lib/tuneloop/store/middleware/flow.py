"""What a request may hold and how long it may wait for its client.

Bodies are counted while they arrive, and have a size and a slowest rate. A large reply is counted
until the client has accepted it, so that a client that does not read holds one block. This is the
innermost middleware: it refuses by an error that the application answers like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.settings.limits import Limits, advice
from tuneloop.store.budget import Budget, Share
from tuneloop.store.web.render import error_page, is_page

CONNECTION = "tuneloop.connection"
"""Key of the connection in a scope's extensions; only the server of `serve` sets it."""
SHARE = "share"
"""Key of a request's share of the budget in a scope's state."""
SMALL_REPLY_BYTES = 1 << 16
"""Smaller parts of replies fit the buffers of a connection and are not counted."""
RETRY_SECONDS = 5


class OverBudget(HTTPException):
    """There is no memory for the request now; the client should try again."""

    def __init__(self, budget: Budget) -> None:
        """Refuse with 503."""
        super().__init__(503, budget.refusal, {"Retry-After": str(RETRY_SECONDS)})


class _NoRoom(Exception):
    """There is no memory for a reply of which nothing was sent."""


class Flow:
    """ASGI middleware that bounds bodies, replies, and waits for clients."""

    def __init__(
        self, app: ASGIApp, budget: Budget, limits: Limits, body_bytes: Mapping[str, int]
    ) -> None:
        """Bound an application.

        Args:
            app: the application.
            budget: memory of all requests.
            limits: limits of the store.
            body_bytes: maximum size of a body by path; `""` is for all other paths.
        """
        self._app, self._budget, self._limits = app, budget, limits
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on within its bounds."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_bytes = self._body_bytes.get(scope["path"], self._body_bytes[""])
        request = _Request(scope, receive, send, Share(self._budget), self._limits, body_bytes)
        scope.setdefault("state", {})[SHARE] = request.share
        try:
            await self._app(scope, request.receive, request.send)
        except _NoRoom:
            refusal = OverBudget(self._budget)
            reply = (
                error_page(503, f"{refusal.detail}.", refusal.headers or {})
                if is_page(scope["path"])
                else JSONResponse({"detail": refusal.detail}, 503, refusal.headers)
            )
            await reply(scope, receive, send)
        finally:
            request.share.close()


def _expire(timeout: asyncio.Timeout) -> None:
    if not timeout.expired():
        timeout.reschedule(0)


class _Request:
    """One request in progress."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        share: Share,
        limits: Limits,
        body_bytes: int,
    ) -> None:
        self._receive, self._send, self.share, self._limits = receive, send, share, limits
        self._body_bytes = body_bytes
        self._connection: Any = scope.get("extensions", {}).get(CONNECTION)
        self._has_body = True
        self._arrived = 0
        self._waited = 0.0
        self._start: Message | None = None

    async def receive(self) -> Message:
        if not self._has_body:  # The application waits for the client to disconnect.
            return await self._receive()
        message = await self._next_part()
        self._has_body = bool(message.get("more_body", False))
        size = len(message.get("body", b""))
        self._arrived += size
        if self._arrived > self._body_bytes:
            raise HTTPException(413, f"Payload size exceeds maximum of {self._body_bytes} bytes")
        if size and not self.share.take(size):
            raise OverBudget(self.share.budget)
        return message

    async def _next_part(self) -> Message:
        rate = self._limits.body_bytes_per_second
        allowed = self._limits.body_seconds + self._arrived / rate - self._waited
        start = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, allowed)) as timeout:
                with self._waiting(partial(_expire, timeout)):
                    return await self._receive()
        except TimeoutError as e:
            if self.share.is_lost:
                raise OverBudget(self.share.budget) from e
            raise HTTPException(
                408,
                f"The body arrived too slowly, after {self._limits.body_seconds:g} s at less than"
                f" {rate} bytes per second; {advice('body_seconds')}",
                {"Connection": "close"},
            ) from e
        finally:
            self._waited += time.monotonic() - start

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # It is sent with the first part, which may be refused.
            return
        size = len(message.get("body", b""))
        if size <= SMALL_REPLY_BYTES:
            await self._send_start()
            await self._sent(message)
            return
        lacking = max(0, size - self.share.held)
        if lacking and not self.share.take(lacking):
            if self._start is not None:
                raise _NoRoom
            self._abort()
            lacking = 0
        await self._send_start()
        await self._sent({**message, "more_body": True})
        # The server accepts this part only when the client has accepted most of the one before.
        await self._sent({**message, "body": b""})
        self.share.give(lacking)

    async def _send_start(self) -> None:
        if self._start is not None:
            message, self._start = self._start, None
            await self._sent(message)

    async def _sent(self, message: Message) -> None:
        timer = asyncio.get_running_loop().call_later(self._limits.reply_seconds, self._abort)
        try:
            with self._waiting(self._abort):
                await self._send(message)
        finally:
            timer.cancel()

    def _abort(self) -> None:
        """Break the connection off; the rest of the reply is then dropped."""
        if self._connection is not None:
            self._connection.end()

    @contextlib.contextmanager
    def _waiting(self, on_loss: Callable[[], None]) -> Iterator[None]:
        """Record that the request waits for its client while the block runs."""
        self.share.on_loss = on_loss
        self.share.budget.set_waiting(self.share, True)
        if self._connection is not None:
            self._connection.set_waiting(True)
        try:
            yield
        finally:
            self.share.budget.set_waiting(self.share, False)
            if self._connection is not None:
                self._connection.set_waiting(False)
