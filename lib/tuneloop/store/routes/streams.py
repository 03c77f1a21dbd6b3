"""Exports as streams: threads make the blocks, the event loop sends them.

A reader occupies a thread only while a block is made for it, not while the block is sent, so slow
readers do not slow down others. One block is made ahead.
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
    """A reply of NDJSON lines in blocks, of which the first is ready."""

    media_type = NDJSON  # for the OpenAPI document

    def __init__(self, first: bytes, blocks: Blocks, threads: CapacityLimiter) -> None:
        """Make the other blocks in these threads."""
        self._blocks = _in_threads(first, blocks, threads)
        super().__init__(self._blocks)

    async def stream_response(self, send: Send) -> None:
        """Send all blocks; close their files at once if the client disconnects."""
        async with contextlib.aclosing(self._blocks):
            await super().stream_response(send)


async def _in_threads(
    first: bytes, blocks: Blocks, threads: CapacityLimiter
) -> AsyncGenerator[bytes, None]:
    # Starlette's own iterator would take the threads that small requests run in, and would make no
    # block while another is sent.
    block: bytes | None = first
    ahead: asyncio.Task[bytes | None] | None = None
    try:
        while block is not None:
            making = to_thread.run_sync(next, blocks, None, limiter=threads)
            ahead = asyncio.create_task(making)
            yield block
            await asyncio.wait(
                [ahead]
            )  # unlike `await ahead`, leaves it alone where this is cancelled
            block = ahead.result()
    finally:
        if ahead is not None:
            with CancelScope(shield=True):  # a generator cannot be closed while it runs
                await asyncio.wait([ahead])
            ahead.exception()  # seen; what counts is on its way already
        blocks.close()


def measured(blocks: Blocks, metrics: Metrics, export_format: str) -> Blocks:
    """The same blocks; how many lines they held and how they ended is counted."""
    with metrics.exporting(export_format) as job:
        for block in blocks:
            job.count += block.count(b"\n")
            yield block
        job.outcome = "complete"
