"""Number of requests of the supervisor of one run, and of 1,000 runs.

The real StageWatch runs against simulated responses of the API server and against an object store
that counts requests. Nothing is timed, so the figures are the same on every machine.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar
from unittest import mock

import fsspec
from figure import print_figure
from fsspec.implementations.memory import MemoryFileSystem
from scale import (
    MEASURED,
    POLL_SECONDS,
    RUNS,
    SLICE,
    Row,
    Tables,
    megabytes,
    objects_of,
    renderer_of,
    show,
)

from tuneloop.artifacts.runs.submission import Submission, SubmittedStage
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.client.connection import Answer
from tuneloop.k8s.watch import StageWatch
from tuneloop.specs.cluster import StagePlacement, TimeoutSpec
from tuneloop.stages.pipelines import TRAINING_STAGES

BUCKET_READS = 5_000
"""Requests per second that a new bucket of Cloud Storage accepts before it scales."""
EVENTS = {"Running": 6, "Pending": 2}
"""Events of one stage (created, scheduled, pulled, started ...), kept by the server for an hour."""


class CountingFiles(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """An in-memory object store that counts reads (GET, HEAD) and writes."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[Counter[str]] = Counter()

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> Any:
        """Count a GET."""
        self.asked["read"] += 1
        return super().cat_file(path, *arguments, **options)

    def info(self, path: str, **options: Any) -> Any:
        """Count a HEAD."""
        self.asked["read"] += 1
        return super().info(path, **options)

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **options: Any) -> Any:
        """Count a PUT."""
        self.asked["write"] += 1
        return super().pipe_file(path, value, *arguments, **options)


class CountingConnection:
    """Simulates an API server with given pods and events in the namespace, and counts requests."""

    context, server, retry_seconds = "bench", "https://bench.example", 1.0

    def __init__(self, phase: str, pods: int, events: int) -> None:
        self.asked: Counter[str] = Counter()
        self.sent_bytes = 0
        self._phase, self._objects = phase, {"Pod": pods, "Event": events}

    def now(self) -> datetime:
        """Return the time on the server's clock."""
        return datetime.now(UTC)

    def send(self, method: str, path: str, what: str, **options: Any) -> Answer:
        """Answer one request; lists are answered page by page."""
        verb, kind = what.split()[:2]
        self.asked[f"{verb} {kind}"] += 1
        one = self._object(kind)
        if verb != "list":
            self.sent_bytes += MEASURED[kind][1]
            return _answer(one)
        query = options["query"]
        since = int(query.get("continue", 0))
        # With a field selector, only the events of one object are requested.
        standing = 1 if "fieldSelector" in query else self._objects[kind]
        count = min(int(query["limit"]), standing - since)
        rest = standing - since - count
        self.sent_bytes += count * MEASURED[kind][1]
        metadata = {"continue": str(since + count)} if rest else {}
        return _answer({"metadata": metadata, "items": [one] * count})

    def _object(self, kind: str) -> dict[str, Any]:
        time = self.now().isoformat()
        metadata = {"name": "x", "uid": kind, "creationTimestamp": time}
        about = {"uid": "another's"}
        return {
            "apiVersion": "batch/v1",
            "kind": kind,
            "metadata": metadata,
            "status": {"phase": self._phase},
            "involvedObject": about,
        }


def _answer(body: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(body).encode(), {})


@dataclass(frozen=True)
class Look:
    """Cost of one look at a stage."""

    requests: Counter[str]
    """Requests to the API server."""
    sent_bytes: int
    """Bytes that the API server sends."""
    files: int
    """Reads of the object store."""


def look(phase: str, *, pods: int = 1, events: int = 0) -> Look:
    """Measure one look at a stage for a phase and number of its pods and a number of events."""
    watch, connection = _watch(phase, pods, events)
    watch.look()  # the first look also reads the workload's uid
    connection.asked.clear()
    connection.sent_bytes = 0
    CountingFiles.asked.clear()
    watch.look()
    return Look(Counter(connection.asked), connection.sent_bytes, CountingFiles.asked["read"])


def creation() -> Counter[str]:
    """Return the requests to the API server that create a stage."""
    watch, connection = _watch("Pending", 1, 0)
    watch.create(replace_failed=False)
    return Counter(connection.asked)


def _watch(phase: str, pods: int, events: int) -> tuple[StageWatch, CountingConnection]:
    fsspec.register_implementation("counted", CountingFiles, clobber=True)
    documents = objects_of(renderer_of(StagePlacement()))
    stages = [
        SubmittedStage(name=name, fingerprint="0" * 64, documents=documents[2 * n : 2 * n + 2])
        for n, name in enumerate(TRAINING_STAGES)
    ]
    submission = Submission(
        run_id="demo-12345e67",
        artifacts="counted://bucket/artifacts",
        namespace="training",
        image="x",
        timeouts=TimeoutSpec(),
        stages=stages,
        submitter=[],
    )
    connection = CountingConnection(phase, pods, events)
    cluster = Cluster(connection, "training")  # type: ignore[arg-type] # duck-typed
    return StageWatch(cluster, submission, stages[1]), connection


def tables() -> Tables:
    """The figures of docs/explanation/appendix-scale.md."""
    hosts = renderer_of(SLICE).accelerators.shape(SLICE.accelerator_request())
    gang = hosts.hosts * hosts.slices
    shared, waiting, running = RUNS * EVENTS["Pending"], look("Pending"), look("Running")
    in_one = look("Pending", events=shared)
    with mock.patch("tuneloop.k8s.client.cluster.EVENT_SELECTORS", 0):
        unselected = look("Pending", events=shared)
    cases = (
        ("a run whose pod runs", running, 1),
        ("a run whose pod waits", waiting, 1),
        (f"{RUNS:,} runs whose pods run", running, RUNS),
        (f"{RUNS:,} that wait, in one namespace", in_one, RUNS),
        ("the same, if it listed all events", unselected, RUNS),
        (f"one gang of {gang:,} pods that run", look("Running", pods=gang), 1),
    )
    rows: list[Row] = [
        ["", "requests a look", "from the API server, a second", "read of the bucket"]
    ]
    for title, cost, runs in cases:
        a_second = runs / POLL_SECONDS
        rows.append(
            [
                title,
                str(cost.requests.total()),
                f"{cost.requests.total() * a_second:,.1f} requests,"
                f" {megabytes(cost.sent_bytes * a_second)}",
                f"{cost.files * a_second:,.1f}/s",
            ]
        )
    kinds: list[Row] = [["", "requests"]]
    for title, counted in (
        ("a look at a stage that runs", running.requests),
        ("a look at one that waits", waiting.requests),
        ("to create a stage", creation()),
    ):
        kinds.append([title, ", ".join(sorted(counted.elements()))])
    return {"scale_requests looks": rows, "scale_requests kinds": kinds}


def main() -> None:
    """Print the tables; the figure compares the load of the bucket with a new bucket's limit."""
    show(tables())
    print_figure(
        "scale_requests", "1/s", [(RUNS * look("Running").files / POLL_SECONDS, BUCKET_READS)]
    )


if __name__ == "__main__":
    main()
