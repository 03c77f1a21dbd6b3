"""Stream exports: threads render the blocks, and the event loop sends them.

A client occupies a thread only while a block is rendered for it and not while the block is sent, so
slow clients do not slow down others. A block is rendered when the client has accepted the one
before, so that a slow client holds one block.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator

from anyio import CapacityLimiter, to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tuneloop.storage import files
from tuneloop.store.budget import Share
from tuneloop.store.metrics import Metrics
from tuneloop.store.middleware.flow import SHARE, OverBudget
from tuneloop.store.routes.request_parsing import NDJSON

LOCAL_STREAM_BYTES = 3 << 20
"""Memory that a stream is counted with: two blocks of the file, and one of the reply."""
REMOTE_STREAM_BYTES = 17 << 20
"""The same for an object store, which is read in blocks of 8 MiB."""

Blocks = Generator[bytes, None, None]


def stream_bytes(artifacts: str) -> int:
    """Return the memory that a stream of files is counted with.

    Args:
        artifacts: URL that the files are read from.
    """
    return REMOTE_STREAM_BYTES if files.local_path(artifacts) is None else LOCAL_STREAM_BYTES


class BlocksResponse(StreamingResponse):
    """A streamed reply of NDJSON lines in blocks."""

    media_type = NDJSON  # The OpenAPI document shows it.

    def __init__(
        self, first: bytes, blocks: Blocks, threads: CapacityLimiter, size_bytes: int
    ) -> None:
        """Create a reply.

        Args:
            first: the first block.
            blocks: generates the other blocks; runs in `threads`.
            threads: threads of all streams.
            size_bytes: memory that the stream is counted with.
        """
        self._blocks = _in_threads(first, blocks, threads)
        self._bytes = size_bytes
        super().__init__(self._blocks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reply, unless the store has no memory for another stream."""
        share: Share | None = scope.get("state", {}).get(SHARE)
        if share is not None and not share.take(self._bytes):
            await self._blocks.aclose()
            raise OverBudget(share.budget)
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send all blocks; if the client disconnects, close the files immediately."""
        async with contextlib.aclosing(self._blocks):
            await super().stream_response(send)


async def _in_threads(
    first: bytes, blocks: Blocks, threads: CapacityLimiter
) -> AsyncGenerator[bytes, None]:
    # Starlette's own iterator would use the threads that small requests need.
    block: bytes | None = first
    try:
        while block is not None:
            yield block
            block = None  # Otherwise two blocks would be in memory.
            block = await to_thread.run_sync(next, blocks, None, limiter=threads)
    finally:
        blocks.close()  # A thread that renders a block is waited for, even if this is cancelled.


def measured(blocks: Blocks, metrics: Metrics, export_format: str) -> Blocks:
    """Pass blocks on, and record the number of lines and the outcome in the metrics."""
    with metrics.exporting(export_format) as job:
        for block in blocks:
            job.count += block.count(b"\n")
            yield block
        job.outcome = "complete"
