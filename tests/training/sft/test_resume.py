"""A training that was killed goes on with the same bits, on any store and any number of hosts."""

from __future__ import annotations

import random
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.builders import xla_flags
from tests.cluster.controlplane import wait_until
from tests.objectstore import STORES
from tests.training.sft.groups import Training, losses_of, method_named, result


def newest_checkpoint(group: Training) -> int:
    complete = (group.prefix / "resume").glob("checkpoints/*/manifest.json")
    return max((int(path.parent.name) for path in complete), default=0)


def wait_for_checkpoint(group: Training, step: int) -> None:
    """Wait until a checkpoint of this step or a later one is complete and its metrics are stored.

    Older ones are deleted meanwhile.
    """
    resume = group.prefix / "resume"

    wait_until(lambda: newest_checkpoint(group) >= step, f"step {step} is stored", 180)
    rows = resume / "metrics.jsonl"  # written one step later
    wait_until(lambda: rows.read_bytes().count(b"\n") >= step, "its metrics are stored")


def kill_after(group: Training, step: int) -> None:
    """Kill all processes when the checkpoint of a step is complete."""
    wait_for_checkpoint(group, step)
    for process in group.processes:
        process.kill()
    group.end()


def test_a_run_goes_on_with_another_number_of_processes_and_devices(
    training: Callable[..., Training],
) -> None:
    """Each kind of weights is split in another way every time."""
    options: dict[str, Any] = {"steps": 32, "validation": None}
    undisturbed = training(**options)
    undisturbed.start(1)
    assert undisturbed.end() == [0], undisturbed.logs()
    moved = training(**options)
    moved.start(2)
    kill_after(moved, 8)
    moved.start(1)
    kill_after(moved, 16)
    moved.start(1, XLA_FLAGS=xla_flags(devices=4))
    assert moved.end() == [0], moved.logs()
    np.testing.assert_allclose(losses_of(moved), losses_of(undisturbed), rtol=1e-5)
    record = moved.record()
    assert record is not None
    assert record.counts["resumed_from_step"] >= 16


LONG: dict[str, Any] = {"steps": 40, "checkpoint_every_steps": 4}


# With one process, tests/test_kill.py and tests/test_stores.py kill the whole loop on a disk, on
# GCS with all weights, and on S3 with LoRA. On a disk, the test below kills two processes.
@pytest.mark.parametrize(("method", "protocol"), [("full", "gs"), ("lora", "s3")])
def test_killed_its_peers_end_and_the_next_group_continues_with_the_same_bits(
    method: str,
    protocol: str,
    training: Callable[..., Training],
) -> None:
    """If the first process is killed, the other one ends within seconds."""
    undisturbed = training(method=method_named(method), **LONG)
    undisturbed.start(2)
    assert undisturbed.end() == [0, 0], undisturbed.logs()
    with STORES[protocol]() as bucket:
        group = training(bucket=bucket, method=method_named(method), **LONG)
        with bucket.proxy.holding("checkpoints/24/") as caught:
            group.start(2)
            assert caught.wait(180), group.logs()
            group.kill(0)
        first, second = group.end()
        assert first == -signal.SIGKILL
        assert second in (-signal.SIGABRT, 75, 70), group.logs()
        group.start(2)
        assert group.end() == [0, 0], group.logs()
        assert result(group) == result(undisturbed)
        record = group.record()
    assert record is not None
    assert record.counts["resumed_from_step"] >= 20


KILLS = 3
MANY: dict[str, Any] = {"steps": 100, "checkpoint_every_steps": 3, "validation": None}


def test_one_of_two_processes_is_killed_at_random_many_times(
    training: Callable[..., Training],
) -> None:
    """Its peer is killed within a second, as a JobSet deletes all pods after a failure."""
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    undisturbed, killed = training(**MANY), training(**MANY)
    started_at = time.monotonic()
    undisturbed.start(2)
    wait_for_checkpoint(undisturbed, 3)
    start_seconds = time.monotonic() - started_at
    assert undisturbed.end() == [0, 0], undisturbed.logs()
    step_seconds = (time.monotonic() - started_at - start_seconds) / MANY["steps"]
    for _ in range(KILLS):
        next_step = newest_checkpoint(killed) + 1
        if next_step > MANY["steps"] - 3:  # A busy machine may train to the end before a kill.
            break
        killed.start(2)
        if draw.random() < 0.3:  # while it starts
            time.sleep(draw.uniform(0, start_seconds))
        else:  # while it computes or saves one of the next steps
            wait_for_checkpoint(killed, next_step)
            time.sleep(draw.uniform(0, 6 * step_seconds))
        first = draw.randrange(2)
        killed.kill(first)
        time.sleep(draw.uniform(0, 1))
        killed.kill(1 - first)
        killed.end()
    killed.start(2)
    assert killed.end() == [0, 0], f"seed {seed}: {killed.logs()}"
    assert result(killed) == result(undisturbed), f"seed {seed}"
    record = killed.record()
    assert record is not None
    assert record.counts["resumed_from_step"] > 0, f"seed {seed}"
