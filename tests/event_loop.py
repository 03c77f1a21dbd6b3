"""An event loop in a thread, for servers that a test runs beside itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

Server = TypeVar("Server")
SECONDS = 20.0


@contextlib.contextmanager
def serving(
    start: Callable[[], Coroutine[Any, Any, Server]],
    stop: Callable[[Server], Coroutine[Any, Any, None]],
) -> Iterator[None]:
    """Start a server on a loop of its own, and stop both after the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
