"""The state that all endpoints share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request

from tuneloop.errors import DataError
from tuneloop.store.budget import Budget
from tuneloop.store.catalog import Catalog
from tuneloop.store.db.database import Database
from tuneloop.store.limits import Limits
from tuneloop.store.metrics import Metrics
from tuneloop.store.shared_reads import SharedReads
from tuneloop.store.streams import MAX_STREAMS, Streams

BUILD_THREADS = 2
"""Maximum number of concurrent builds; more builds wait without blocking small requests."""
BATCH_THREADS = 8
"""Maximum number of small batches that are parsed and stored at the same time."""
LARGE_BATCH_BYTES = 4 << 20
"""Batches of more bytes are parsed and stored one at a time, because of the memory they take."""
EXPORT_THREADS = 8
"""Maximum number of exports that render a block at the same time; sending needs no thread."""


class Damaged(DataError):
    """A published dataset is damaged; the message contains no path of the server."""


@dataclass(frozen=True)
class Service:
    """The state that all endpoints share."""

    database: Database
    artifacts: str
    catalog: Catalog
    clock: Callable[[], datetime]
    new_seed: Callable[[], int]
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    views: SharedReads[Any] = field(default_factory=SharedReads)
    """Views of runs that people watch, by run id."""
    streams: Streams = field(init=False)
    budget: Budget = field(init=False)
    batch_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BATCH_THREADS))
    large_batch_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    build_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BUILD_THREADS))
    export_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(EXPORT_THREADS))

    def __post_init__(self) -> None:
        """Create what depends on the limits."""
        # Half of the connections are left to requests that end.
        streams = min(MAX_STREAMS, self.limits.usable_connections() // 2)
        object.__setattr__(self, "streams", Streams(streams))
        object.__setattr__(self, "budget", Budget(self.limits))


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Svc = Annotated[Service, Depends(_service)]
