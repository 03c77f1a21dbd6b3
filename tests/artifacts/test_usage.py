"""Steps that restarts repeat, and the queue time of several workloads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.usage.held import PodUse, StageHeld
from tuneloop.artifacts.usage.restarts import Restarts

NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)


def attempt(found: Progress | None, first: int | None, last: int) -> tuple[Restarts, Progress]:
    """Run an attempt; returns its counts and its last heartbeat."""
    counts = Restarts.after(found)
    steps: dict[str, int] = {}
    if first is not None:
        counts.first_step(first)
        steps = {"step": last}
    beat = {"updated_at": NOW.isoformat(), **steps, **counts.as_json()}
    return counts, Progress.model_validate(beat)


def test_steps_after_the_last_checkpoint_are_made_again() -> None:
    counts, beat = attempt(None, 1, 17)
    assert counts.repeated == 0
    counts, beat = attempt(beat, 11, 40)  # the checkpoint of step 10
    assert counts.repeated == 7
    counts, beat = attempt(beat, 41, 50)  # everything was saved
    assert counts.repeated == 7
    counts, beat = attempt(beat, 1, 50)  # all checkpoints are gone
    assert counts.repeated == 57


def test_an_attempt_that_ends_before_its_first_step_loses_no_count() -> None:
    _, beat = attempt(None, 1, 17)
    _, beat = attempt(beat, None, 0)
    _, beat = attempt(beat, None, 0)
    counts, _ = attempt(beat, 11, 20)
    assert counts.repeated == 7


def test_the_first_attempt_has_no_counts() -> None:
    assert Restarts.after(None).as_json() == {}


def held(**pods: PodUse) -> StageHeld:
    created = {"w1": NOW, "w2": NOW + timedelta(hours=1)}
    return StageHeld(
        accelerator="v5e-2x2", spot=False, chips_per_pod=4, workloads=created, pods=pods
    )


def pod(workload: str, start: float | None, end: float | None, *, failed: bool = False) -> PodUse:
    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOW + timedelta(seconds=seconds)

    seen = NOW + timedelta(seconds=9000)
    return PodUse(
        workload=workload, scheduled_at=at(start), ended_at=at(end), seen_at=seen, failed=failed
    )


@pytest.mark.parametrize(
    ("pods", "queue", "held_seconds"),
    [
        ({}, 0, 0),
        ({"a": pod("w1", None, None)}, 0, 0),  # still in the queue
        ({"a": pod("w1", 30, 90), "b": pod("w1", 40, 90)}, 30, 110),
        ({"a": pod("w1", 30, 90), "b": pod("w2", 3700, 3760)}, 130, 120),
        ({"a": pod("w1", -5, 20)}, 0, 25),
        ({"a": pod("gone", 30, 90)}, 0, 60),
    ],
)
def test_queue_and_held_time(pods: dict[str, PodUse], queue: float, held_seconds: float) -> None:
    found = held(**pods)
    assert (found.queue_seconds, found.held_pod_seconds) == (queue, held_seconds)
