"""Prometheus metrics of the store.

Label values come from the store's code and are few: route templates, known methods, status codes
and outcomes. Text from a client (a path, a dataset key, a source) never becomes a label value.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from tuneloop.datasets.build import DatasetConflict, DatasetEmpty

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""Any other method counts as `other`, because clients can send any text."""
NO_ROUTE = "none"
"""Route of a request that was refused before routing, or that no route matches."""

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_JOB_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
_BATCH_TRACES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


def _version() -> str:
    try:
        return metadata.version("tuneloop")
    except metadata.PackageNotFoundError:  # The store runs from a checkout without installation.
        return "unknown"


@dataclass
class Job:
    """A running build or export; the code that runs it sets outcome and count."""

    outcome: str = "failed"
    count: int = 0
    """Traces of a build or records of an export."""


class Metrics:
    """All metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        """Register all metrics, so that every series exists at the first scrape."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        build = Info("tuneloop_build", "Version of the store.", registry=registry)
        build.info({"version": _version(), "python": platform.python_version()})
        self.in_flight = Gauge(
            "tuneloop_http_requests_in_flight", "Requests in progress.", registry=registry
        )
        self._register_requests(registry)
        self._register_traces(registry)
        self._register_jobs(registry)

    def _register_requests(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "tuneloop_http_requests",
            "Answered requests; status 499 means that the client disconnected before the reply.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "tuneloop_http_request_duration_seconds",
            "Seconds from the first byte of a request to the last byte of its reply.",
            ["method", "route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._bytes_in = Counter(
            "tuneloop_http_request_body_bytes",
            "Bytes of request bodies.",
            ["route"],
            registry=registry,
        )
        self._bytes_out = Counter(
            "tuneloop_http_response_body_bytes",
            "Bytes of response bodies.",
            ["route"],
            registry=registry,
        )

    def _register_traces(self, registry: CollectorRegistry) -> None:
        self._batches = Histogram(
            "tuneloop_batch_traces",
            "Traces per stored batch; a single trace counts as a batch of one.",
            buckets=_BATCH_TRACES,
            registry=registry,
        )
        self._traces = Counter(
            "tuneloop_traces_stored",
            "Stored traces; batches repeated with an idempotency key are not counted again.",
            registry=registry,
        )

    def _register_jobs(self, registry: CollectorRegistry) -> None:
        self._builds = Histogram(
            "tuneloop_dataset_build_duration_seconds",
            "Seconds per build by outcome: created, existing, empty, conflict, failed.",
            ["outcome"],
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self._built = Counter(
            "tuneloop_dataset_build_traces", "Traces in created datasets.", registry=registry
        )
        self._exports = Histogram(
            "tuneloop_dataset_export_duration_seconds",
            "Seconds per export, including waits for slow clients, by format and outcome:"
            " complete, disconnected, failed.",
            ["format", "outcome"],
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self._exported = Counter(
            "tuneloop_dataset_export_records", "Exported records.", ["format"], registry=registry
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Render all metrics in the format that the Accept header asks for.

        Returns:
            The text and its media type.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def request_ended(
        self,
        method: str,
        route: str | None,
        status: int,
        *,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
    ) -> None:
        """Count a request by its route template; None means that no route was matched."""
        method = method if method in METHODS else "other"
        route = route or NO_ROUTE
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)
        self._bytes_in.labels(route).inc(bytes_in)
        self._bytes_out.labels(route).inc(bytes_out)

    def batch_stored(self, count: int) -> None:
        """Count the new traces of a batch that was answered with status 201."""
        if count:
            self._batches.observe(count)
            self._traces.inc(count)

    @contextlib.contextmanager
    def building(self) -> Iterator[Job]:
        """Measure a build while the block runs."""
        job, start = Job(), time.monotonic()
        try:
            yield job
        except DatasetEmpty:
            job.outcome = "empty"
            raise
        except DatasetConflict:
            job.outcome = "conflict"
            raise
        finally:
            self._builds.labels(job.outcome).observe(time.monotonic() - start)
            if job.outcome == "created":
                self._built.inc(job.count)

    @contextlib.contextmanager
    def exporting(self, export_format: str) -> Iterator[Job]:
        """Measure an export while the block runs; `export_format` must be a known format."""
        job, start = Job(), time.monotonic()
        try:
            yield job
        except GeneratorExit:  # The client closed the stream before its end.
            job.outcome = "disconnected"
            raise
        finally:
            self._exports.labels(export_format, job.outcome).observe(time.monotonic() - start)
            self._exported.labels(export_format).inc(job.count)
