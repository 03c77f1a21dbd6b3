"""Server-sent events: limits, the format, and an end when the store stops."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from fastapi.responses import StreamingResponse
from starlette.types import Send

MAX_STREAMS = 1000
"""Maximum number of open streams of one process; pages of further viewers poll instead."""
INTERVAL_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 15.0
"""A stream without news sends a comment after this time, so that proxies keep it open."""
STREAM_SECONDS = 900.0
"""A stream ends after this time, and the browser opens another one."""
RETRY_MILLISECONDS = 3000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second one makes nginx pass events on as they arrive."""

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class News:
    """The newest state of what a client watches."""

    version: str
    """Changes with the text."""
    text: str
    is_last: bool
    """Whether the stream ends with it."""


class Streams:
    """The open streams of this process."""

    def __init__(self, maximum: int = MAX_STREAMS) -> None:
        """Start without streams."""
        self.maximum, self.count = maximum, 0
        self.is_closed = False

    @property
    def are_full(self) -> bool:
        """Whether no further stream may start."""
        return self.is_closed or self.count >= self.maximum

    def close(self) -> None:
        """End all streams within INTERVAL_SECONDS."""
        self.is_closed = True

    async def events(
        self, latest: Callable[[], Awaitable[News | None]], seen: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield events until the last one: `hello`, one `update` per change, and `finished`.

        Args:
            latest: returns the newest state; None if it cannot be read now.
            seen: version that the client has.
        """
        self.count += 1
        try:
            yield f"retry: {RETRY_MILLISECONDS}\n".encode() + event("hello", "")
            started = spoke = time.monotonic()
            while not self.is_closed and time.monotonic() - started < STREAM_SECONDS:
                news = await latest()
                if news is not None and news.version != seen:
                    yield event("update", news.text, news.version)
                    seen, spoke = news.version, time.monotonic()
                if news is not None and news.is_last:
                    yield event("finished", "")
                    return
                if time.monotonic() - spoke >= KEEP_ALIVE_SECONDS:
                    yield b": keep-alive\n\n"
                    spoke = time.monotonic()
                await asyncio.sleep(INTERVAL_SECONDS)
        finally:
            self.count -= 1


def event(name: str, text: str, version: str = "") -> bytes:
    """Format an event; browsers ignore one without a data line."""
    lines = [f"event: {name}", *(f"data: {line}" for line in _LINE_END.split(text))]
    lines += [f"id: {version}"] if version else []
    return "\n".join([*lines, "", ""]).encode()


class EventsResponse(StreamingResponse):
    """A reply of server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        """Create a reply."""
        self._events = events
        super().__init__(events, headers={**headers, **HEADERS})

    async def stream_response(self, send: Send) -> None:
        """Send events until the last one; the generator is closed when the client disconnects."""
        async with contextlib.aclosing(self._events):
            await super().stream_response(send)
