"""The state that all endpoints share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, HTTPException, Request

from tuneloop.errors import DataError
from tuneloop.settings.limits import Limits
from tuneloop.storage import files, paths
from tuneloop.store.budget import Budget
from tuneloop.store.catalog import Catalog
from tuneloop.store.db.database import Database
from tuneloop.store.db.kept import KeptSelections
from tuneloop.store.metrics import Metrics
from tuneloop.store.readiness import Check, check_room
from tuneloop.store.shared_reads import SharedReads
from tuneloop.store.streams import MAX_STREAMS, Streams

P = ParamSpec("P")
T = TypeVar("T")

BUILD_THREADS = 2
"""Maximum number of concurrent builds; more builds wait without blocking small requests."""
BATCH_THREADS = 8
"""Maximum number of small batches that are parsed and stored at the same time."""
LARGE_BATCH_BYTES = 4 << 20
"""Batches of more bytes are parsed and stored one at a time, because of the memory they take."""
ARTIFACT_THREADS = 16
"""Maximum number of requests that read the artifact store at the same time, without streams."""
ARTIFACT_QUEUE = 64
"""Maximum number of requests that wait for one of these threads; further ones get 503."""
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
    kept: KeptSelections = field(default_factory=KeptSelections)
    streams: Streams = field(init=False)
    budget: Budget = field(init=False)
    checks: dict[str, Check] = field(init=False)
    """Checks of the readiness probe by name."""
    artifact_threads: CapacityLimiter = field(
        default_factory=lambda: CapacityLimiter(ARTIFACT_THREADS)
    )
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
        looks = {"database": self._check_database, "artifacts": self._check_artifacts}
        seconds = self.limits.probe_seconds
        checks = {name: Check(name, look, seconds) for name, look in looks.items()}
        object.__setattr__(self, "checks", checks)

    def _check_database(self) -> None:
        self.database.ping()
        if self.database.folder is not None:
            check_room(self.database.folder, self.limits.free_disk_bytes)

    def _check_artifacts(self) -> None:
        files.exists(paths.join(self.artifacts, "datasets"))
        folder = files.local_path(self.artifacts)
        if folder is not None:
            check_room(Path(folder), self.limits.free_disk_bytes)

    async def on_artifacts(self, work: Callable[[], T]) -> T:
        """Run work that reads the artifact store in threads of its own.

        If the artifact store hangs, this work waits and all other requests go on.

        Raises:
            HTTPException: too many requests wait already.
        """
        if self.artifact_threads.statistics().tasks_waiting >= ARTIFACT_QUEUE:
            raise HTTPException(
                503, "The artifact store is slow; try again later", {"Retry-After": "5"}
            )
        return await to_thread.run_sync(work, limiter=self.artifact_threads)


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def in_artifact_threads(endpoint: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Run an endpoint, which has a parameter `service`, by `Service.on_artifacts`."""

    @functools.wraps(endpoint)
    async def run(*args: P.args, **keywords: P.kwargs) -> T:
        service = keywords["service"]
        assert isinstance(service, Service)
        return await service.on_artifacts(functools.partial(endpoint, *args, **keywords))

    return run


Svc = Annotated[Service, Depends(_service)]
