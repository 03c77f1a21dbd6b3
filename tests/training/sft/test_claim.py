"""Only the newest attempt writes below the prefix of an unfinished training."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.controlplane import wait_until
from tests.objectstore import STORES, ObjectStore
from tests.training.sft.groups import Training, result
from tuneloop.errors import Superseded
from tuneloop.storage import files
from tuneloop.training.sft.background import BackgroundFile
from tuneloop.training.sft.checkpoint.claim import Claim


@pytest.fixture(params=["file", "memory"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "resume") if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def test_a_later_claim_ends_the_earlier_ones(prefix: str) -> None:
    first = Claim.take(prefix, "a")
    first.check()
    second = Claim.take(prefix, "b")
    with pytest.raises(Superseded, match="a later attempt of this training has started") as caught:
        first.check()
    assert caught.value.exit_code == 75
    second.check()
    assert [first.number, second.number, Claim.take(prefix, "c").number] == [1, 2, 3]
    for claim in (first, second):
        with pytest.raises(Superseded):
            claim.check()


def test_of_claims_at_the_same_time_one_remains(prefix: str) -> None:
    claims: list[Claim] = []
    barrier = threading.Barrier(8)

    def take(index: int) -> None:
        barrier.wait()
        claims.append(Claim.take(prefix, f"attempt {index}"))

    threads = [threading.Thread(target=take, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.number for claim in claims) == list(range(1, 9))
    claims.sort(key=lambda claim: claim.number)
    claims[-1].check()
    for claim in claims[:-1]:
        with pytest.raises(Superseded):
            claim.check()


def test_foreign_files_do_not_count(prefix: str) -> None:
    files.write(f"{prefix}/writers/notes.txt", b"")
    assert Claim.take(prefix, "a").number == 1


def test_metrics_of_an_earlier_attempt_are_not_written(prefix: str) -> None:
    first = Claim.take(prefix, "a")
    file = BackgroundFile(f"{prefix}/metrics.jsonl", first.check)
    file.write(b"1")
    file.close(30)
    Claim.take(prefix, "b")
    late = BackgroundFile(f"{prefix}/metrics.jsonl", first.check)
    late.write(b"2")
    with pytest.raises(Superseded):
        late.close(30)
    assert files.read(f"{prefix}/metrics.jsonl") == b"1"


def stored_steps(bucket: ObjectStore) -> int:
    """Return the number of steps in the metrics of the unfinished training."""
    names = [name for name in bucket.bucket.names() if name.endswith("/resume/metrics.jsonl")]
    return sum(bucket.bucket.get(name).count(b"\n") for name in names)


def test_a_frozen_attempt_that_wakes_up_changes_nothing(
    training: Callable[..., Training],
) -> None:
    """A node that comes back after its network failed: its pod goes on where it was."""
    options = {"steps": 40, "checkpoint_every_steps": 4, "validation": None}
    undisturbed = training(**options)
    undisturbed.start(1)
    assert undisturbed.end() == [0], undisturbed.logs()
    with STORES["gs"]() as bucket:
        group = training(bucket=bucket, **options)
        (frozen,) = group.start(1)
        with bucket.proxy.holding("checkpoints/8/") as caught:
            assert caught.wait(180), group.logs()
            # A write that is on its way cannot be called back. It holds the steps so far, and a
            # checkpoint whose steps are not all in the metrics is not used.
            wait_until(lambda: stored_steps(bucket) == 8, "the metrics of step 8 are stored", 60)
            os.kill(frozen.pid, signal.SIGSTOP)
        group.start(1)
        assert group.end() == [0], group.logs()
        assert result(group) == result(undisturbed)
        stored = {name: bucket.bucket.get(name) for name in bucket.bucket.names()}
        os.kill(frozen.pid, signal.SIGCONT)
        _, said = frozen.communicate(timeout=120)
        assert frozen.returncode == 75, said
        assert "a later attempt of this training has started" in said
        after = {name: bucket.bucket.get(name) for name in bucket.bucket.names()}
        changed = {Path(name).name for name in stored if stored[name] != after.get(name)}
        assert changed <= {"progress.json", "log.txt"}  # what the last process has to say
        # What it had on its way lies in folders of its own, which nothing names.
        assert not [name for name in set(after) - set(stored) if name.endswith("manifest.json")]
        group.processes.append(frozen)
