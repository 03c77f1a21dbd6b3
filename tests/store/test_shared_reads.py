"""One read serves all viewers."""

from __future__ import annotations

import threading
import time

import pytest

from tuneloop.errors import Transient
from tuneloop.store import shared_reads
from tuneloop.store.shared_reads import SharedReads


class Source:
    """Counts reads; each takes a moment."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.reads, self.seconds, self.fails = 0, seconds, False

    def __call__(self, before: int | None) -> int:
        self.reads += 1
        time.sleep(self.seconds)
        if self.fails:
            raise Transient("bucket: no answer; try again")
        return (before or 0) + 1


def test_many_viewers_are_one_read() -> None:
    shared, source = SharedReads[int](), Source(0.1)
    got: list[int] = []
    viewers = [
        threading.Thread(target=lambda: got.append(shared.get("run", source))) for _ in range(50)
    ]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join()
    assert (got, source.reads) == ([1] * 50, 1)


def test_an_old_value_serves_others_while_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "MAX_AGE_SECONDS", 0.0)
    shared, quick, slow = SharedReads[int](), Source(), Source(1.0)
    assert shared.get("run", quick) == 1
    reader = threading.Thread(target=shared.get, args=("run", slow))
    reader.start()
    while not slow.reads:
        time.sleep(0.001)
    start = time.monotonic()
    assert shared.get("run", quick) == 1
    assert time.monotonic() - start < 0.5
    reader.join()
    assert shared.get("run", quick) == 3


def test_a_storage_that_fails_is_not_asked_by_every_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, source = SharedReads[int](), Source()
    source.fails = True
    for _ in range(5):
        with pytest.raises(Transient):
            shared.get("run", source)
    assert source.reads == 1
    source.fails = False
    monkeypatch.setattr(shared_reads, "MAX_AGE_SECONDS", 0.0)
    assert shared.get("run", source) == 1


def test_memory_is_bounded() -> None:
    shared, source = SharedReads[int](), Source()
    for number in range(shared_reads.MAX_KEYS + 10):
        shared.get(f"run-{number}", source)
    shared.get(f"run-{shared_reads.MAX_KEYS + 9}", source)
    assert source.reads == shared_reads.MAX_KEYS + 10
    shared.get("run-0", source)  # was dropped
    assert source.reads == shared_reads.MAX_KEYS + 11
