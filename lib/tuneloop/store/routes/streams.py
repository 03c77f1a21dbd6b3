"""Stream exports: threads render the blocks, and the event loop sends them.

A client occupies a thread only while a block is rendered for it and not while the block is sent, so
slow clients do not slow down others. One block is rendered ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Send

from tuneloop.store.metrics import Metrics
from tuneloop.store.routes.request_parsing import NDJSON

Blocks = Generator[bytes, None, None]


class BlocksResponse(StreamingResponse):
    """A streamed reply of NDJSON lines in blocks."""

    media_type = NDJSON  # The OpenAPI document shows it.

    def __init__(self, first: bytes, blocks: Blocks, threads: CapacityLimiter) -> None:
        """Create a reply from its first block and a generator of the others, run in `threads`."""
        self._blocks = _in_threads(first, blocks, threads)
        super().__init__(self._blocks)

    async def stream_response(self, send: Send) -> None:
        """Send all blocks; if the client disconnects, close the files immediately."""
        async with contextlib.aclosing(self._blocks):
            await super().stream_response(send)


async def _in_threads(
    first: bytes, blocks: Blocks, threads: CapacityLimiter
) -> AsyncGenerator[bytes, None]:
    # Starlette's own iterator would use the threads that small requests need, and it would not
    # render a block while another one is sent.
    block: bytes | None = first
    ahead: asyncio.Task[bytes | None] | None = None
    try:
        while block is not None:
            making = to_thread.run_sync(next, blocks, None, limiter=threads)
            ahead = asyncio.create_task(making)
            yield block
            # Unlike `await ahead`, this does not cancel the task if this generator is cancelled.
            await asyncio.wait([ahead])
            block = ahead.result()
    finally:
        if ahead is not None:
            with CancelScope(shield=True):  # A generator cannot be closed while it runs.
                await asyncio.wait([ahead])
            ahead.exception()  # Mark the exception as retrieved; another one is already raised.
        blocks.close()


def measured(blocks: Blocks, metrics: Metrics, export_format: str) -> Blocks:
    """Pass blocks on, and record the number of lines and the outcome in the metrics."""
    with metrics.exporting(export_format) as job:
        for block in blocks:
            job.count += block.count(b"\n")
            yield block
        job.outcome = "complete"
