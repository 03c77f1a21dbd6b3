"""The archive of logs on GCS and S3, while requests fail and answers get lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.artifacts.stage_logs.test_archive import ATTEMPT, append, stored
from tests.artifacts.stage_logs.test_lines import at
from tests.objectstore import STORES, ObjectStore, used_by_this_process
from tuneloop.artifacts.stage_logs.archive import Archive, ArchiveWriter, AttemptEnd
from tuneloop.artifacts.stage_logs.attempt import list_attempts
from tuneloop.runs.logs.follow import StageLog

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with used_by_this_process(request.param) as found:
        yield found


def test_two_supervisors_store_each_line_once_although_answers_get_lost(
    store: ObjectStore,
) -> None:
    artifacts = store.url("a")
    prefix = f"{artifacts}/training_runs/r/train"
    archive = Archive(prefix, ATTEMPT)
    log = [at(number / 10, "naïve 🙂 %d".encode() % (number // 3)) for number in range(120)]

    def supervise(step: int) -> None:
        writer = ArchiveWriter(archive)
        for stop in range(step, len(log), step):
            append(writer, log[:stop])
        append(writer, log)

    threads = [threading.Thread(target=supervise, args=(step,)) for step in (11, 17)]
    with store.proxy.failing(0.1, seed=5):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        archive.write_end(AttemptEnd(exit_code=0))
        assert stored(archive) == log
        assert list_attempts(prefix) == [ATTEMPT]
        assert [each.line for each in StageLog(artifacts, "r", "train").lines()] == log
    assert store.proxy.faults
