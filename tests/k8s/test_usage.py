"""Times of pods on a cluster in memory, as supervisors store them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Action, Exit, Killed, Running, Twin, publish_record, rendered
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.artifacts.usage.held import PodUse, StageHeld, read_held, usage_url
from tuneloop.errors import DataError, StageFailed
from tuneloop.history.cost.account import taken_by_run
from tuneloop.history.cost.prices import PriceList
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.usage import pod_use
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.storage import files

NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)
V5E = {"train": {"accelerator": "v5e-2x2", "spot": True}}


def run(twin: Twin, submission: Submission, **how: Any) -> None:
    backend = KubernetesBackend(submission, lambda: twin)
    Sequence(backend, Callbacks(), twin.clock, twin.sleep).run(
        **{"retry_failed": True, "stop_on_interrupt": True, **how}
    )


def held(submission: Submission, stage: str = "train") -> StageHeld:
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, stage)
    found = read_held(prefix)
    assert found is not None
    return found


def place_of(submission: Submission) -> tuple[str, str]:
    return submission.artifacts, submission.run_id


def steps(twin: Twin, count: int, failures: int = 0) -> Any:
    """Pods that run for some steps of five seconds; the first ones of the training fail then."""
    seen: dict[str, int] = {}
    failed: set[str] = set()

    def act(pod: Any) -> Action:
        name = pod["metadata"]["name"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= count:
            return Running()
        spec = twin.stage_of(pod)
        if spec.stage == "train" and len(failed | {name}) <= failures:
            failed.add(name)
            return Exit(75)
        publish_record(spec)
        return Exit(0)

    return act


def test_a_stage_holds_its_machines_from_start_to_end(tiny_run: TinyRun) -> None:
    twin = Twin()
    twin.act = steps(twin, 4)
    submission = rendered(tiny_run, **V5E)
    run(twin, submission)
    found = held(submission)
    assert (found.accelerator, found.spot, found.chips_per_pod) == ("v5e-2x2", True, 4)
    (pod,) = found.pods.values()
    assert pod.ended_at is not None
    assert found.held_pod_seconds == 20.0
    assert found.failed_pod_seconds == 0.0
    assert found.queue_seconds == 10.0  # the twin creates and starts a pod in two steps
    assert held(submission, "export").accelerator == "cpu"
    assert held(submission, "export").chips_per_pod == 0
    prices = PriceList.model_validate(
        {"currency": "EUR", "per_hour": {"v5e": {"spot": 3.6}, "cpu": {"on_demand": 0.36}}}
    )
    stages = {each.stage: each for each in taken_by_run(*place_of(submission), prices)}
    assert list(stages) == ["export", "train", "eval", "import"]
    train = stages["train"]
    assert train.chip_hours == pytest.approx(4 * 20 / 3600)
    assert train.cost == pytest.approx(0.08)
    assert train.used_chip_hours == pytest.approx(4 * 1.0 / 3600)  # the record says one second
    assert stages["export"].cost == pytest.approx(0.002)


def test_pods_of_restarts_and_of_a_second_run_add_up(tiny_run: TinyRun) -> None:
    twin = Twin()
    twin.act = steps(twin, 2, failures=8)
    submission = rendered(tiny_run, **V5E)
    with pytest.raises(StageFailed):
        run(twin, submission)  # seven tries
    assert len(held(submission).pods) == 7
    run(twin, submission)  # two tries
    found = held(submission)
    assert len(found.pods) == 9
    assert len(found.workloads) == 2
    assert found.held_pod_seconds == 90.0
    assert found.failed_pod_seconds == 80.0
    assert found.queue_seconds == 20.0


def test_a_killed_supervisor_loses_no_pod(tiny_run: TinyRun) -> None:
    submission = rendered(tiny_run, **V5E)
    twin = Twin()
    twin.act = steps(twin, 6)
    kills = 0
    for _ in range(60):
        twin.kill_at = 17
        twin.calls = 0
        try:
            run(twin, submission, retry_failed=False)
            break
        except Killed:
            kills += 1
    assert kills > 2
    assert held(submission).held_pod_seconds == 30.0


def test_a_broken_file_is_replaced(tiny_run: TinyRun) -> None:
    submission = rendered(tiny_run, **V5E)
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "train")
    files.write(usage_url(prefix), b'{"pods": [')
    with pytest.raises(DataError):
        read_held(prefix)
    twin = Twin()
    twin.act = steps(twin, 4)
    run(twin, submission)
    assert held(submission).held_pod_seconds == 20.0


def test_status_writes_nothing(tiny_run: TinyRun) -> None:
    submission = rendered(tiny_run, **V5E)
    twin = Twin()
    backend = KubernetesBackend(submission, lambda: twin)
    backend.submit("export", retry_failed=True)
    twin.sleep(5)
    KubernetesBackend(submission, lambda: twin).poll("export")
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    assert not Path(usage_url(prefix)).exists()


@pytest.mark.parametrize(
    ("status", "seconds", "failed"),
    [
        ({}, 0.0, False),
        (
            {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]},
            0,
            False,
        ),
        ({"phase": "Running", "startTime": "2026-11-28T09:59:00Z"}, 60.0, False),
        # The scheduler's time comes first: an image that is pulled holds the machine too.
        (
            {
                "phase": "Running",
                "startTime": "2026-11-28T09:59:00Z",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "True",
                        "lastTransitionTime": "2026-11-28T09:58:00Z",
                    }
                ],
            },
            120.0,
            False,
        ),
        # The node's clock is an hour behind: its end is before the start.
        (
            {
                "phase": "Failed",
                "startTime": "2026-11-28T09:59:00Z",
                "containerStatuses": [
                    {
                        "name": "main",
                        "state": {"terminated": {"finishedAt": "2026-11-28T08:59:30Z"}},
                    }
                ],
            },
            0.0,
            True,
        ),
        ({"phase": "Failed", "startTime": "2026-11-28T09:59:00Z", "reason": "Evicted"}, 60.0, True),
        ({"phase": "Failed", "startTime": "never", "containerStatuses": "none"}, 0.0, True),
    ],
)
def test_what_pods_say(status: dict[str, Any], seconds: float, failed: bool) -> None:
    found = pod_use({"metadata": {"uid": "u"}, "status": status}, "w", NOW)
    assert (found.held_seconds, found.failed) == (seconds, failed)


def test_a_pod_that_vanished_counts_until_it_was_last_seen() -> None:
    pod = PodUse(workload="w", scheduled_at=NOW, seen_at=NOW + timedelta(seconds=90))
    assert pod.held_seconds == 90.0
