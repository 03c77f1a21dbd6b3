"""The state that all endpoints share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request

from tuneloop.errors import DataError
from tuneloop.store.catalog import Catalog
from tuneloop.store.db.database import Database
from tuneloop.store.limits import Limits
from tuneloop.store.metrics import Metrics
from tuneloop.store.shared_reads import SharedReads
from tuneloop.store.streams import Streams

BUILD_THREADS = 2
"""Maximum number of concurrent builds; more builds wait without blocking small requests."""
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
    streams: Streams = field(default_factory=Streams)
    build_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BUILD_THREADS))
    export_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(EXPORT_THREADS))


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Svc = Annotated[Service, Depends(_service)]
