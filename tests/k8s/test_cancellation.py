"""Test cancellation on an in-memory cluster: what is deleted, what is kept, what will not go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Running, Twin, rendered
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.artifacts.runs.submission import Submission, name_of
from tuneloop.errors import StageFailed
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.cancellation import delete_workloads, workloads_of
from tuneloop.runs.sequence import Sequence

GANG = {"train": {"accelerator": "v5e-4x4"}}


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    tiny_run.change(train__batch_size=16)
    return rendered(tiny_run, **GANG)


def started(twin: Twin, submission: Submission, stage: str = "export") -> KubernetesBackend:
    backend = KubernetesBackend(submission, lambda: twin)
    backend.submit(stage, retry_failed=True)
    for _ in range(2):  # the pods are created, then they run
        twin.sleep(1)
    return backend


def cancel(
    twin: Twin, submission: Submission, sleep: Callable[[float], None] | None = None, **asked: Any
) -> Cancellation:
    workloads = workloads_of(submission, asked.pop("stage", None))
    arguments = {"wait_seconds": 0.0, "sleep": sleep or twin.sleep, **asked}
    return delete_workloads(twin, submission.run_id, workloads, **arguments)


def test_a_finalizer_of_someone_else_is_named_until_its_owner_removes_it(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Running())
    started(twin, submission)
    (pod,) = twin.one("Pod")
    twin.objects["Pod", pod]["metadata"]["finalizers"] = [
        "batch.kubernetes.io/job-tracking",
        "example.com/keep",
    ]
    job = name_of(submission.stages[0].workload)
    found = cancel(twin, submission)
    assert found.ended == (f"Job {job}",)
    assert found.remaining == (
        f"pod {pod}: finalizer example.com/keep keeps it; ask the owner of the finalizer, or remove"
        " it with `kubectl edit pod`",
        f"Job {job}: waits until its pods are gone",
    )
    assert cancel(twin, submission) == found  # again: the same answer
    del twin.objects["Pod", pod]["metadata"]["finalizers"]
    twin.step()
    assert cancel(twin, submission) == Cancellation()
    assert (twin.one("Pod"), twin.one("Job"), twin.one("ConfigMap")) == ([], [], [])


def test_a_lost_node_and_a_grace_period_are_told_apart(submission: Submission) -> None:
    twin = Twin(lambda pod: Running())
    started(twin, submission, "train")
    pods = twin.one("Pod")
    assert len(pods) == 4
    lost, ending = twin.objects["Pod", pods[0]], twin.objects["Pod", pods[1]]
    for pod, name in ((lost, "node-a"), (ending, "node-b")):
        pod["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
        pod["spec"]["nodeName"] = name
        pod["status"]["containerStatuses"][0]["ready"] = True
    lost["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    found = cancel(twin, submission, stage="train")
    assert found.remaining[0].startswith(
        f"pod {pods[0]} on node node-a: its node does not answer, so nobody can confirm"
    )
    assert f"`kubectl delete pod {pods[0]} --force`" in found.remaining[0]
    assert found.remaining[1].startswith(
        f"pod {pods[1]} on node node-b: is still ending, its grace period ends at 2026-11-27T"
    )
    assert found.remaining[2].endswith(": waits until its pods are gone")
    assert len(found.remaining) == 3


def test_a_finalizer_of_the_workload_and_a_silent_garbage_collector_are_named(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Running())
    started(twin, submission)
    name = name_of(submission.stages[0].workload)
    twin.objects["Job", name]["metadata"]["finalizers"] = ["foregroundDeletion", "kueue.x-k8s.io/q"]
    (line,) = cancel(twin, submission).remaining
    assert line.startswith(f"Job {name}: finalizer kueue.x-k8s.io/q keeps it;")
    assert line.endswith(f"`kubectl edit Job/{name}`")
    twin.objects["Job", name]["metadata"]["finalizers"] = ["foregroundDeletion"]
    (line,) = cancel(twin, submission).remaining
    assert "waits for the cluster's garbage collector" in line


def test_cancel_waits_until_all_is_gone(submission: Submission) -> None:
    twin = Twin(lambda pod: Running())
    started(twin, submission)
    (pod,) = twin.one("Pod")
    twin.objects["Pod", pod]["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            del twin.objects["Pod", pod]["metadata"]["finalizers"]
        twin.sleep(seconds)

    found = cancel(twin, submission, sleep, wait_seconds=60.0)
    assert (len(found.ended), found.remaining, len(slept)) == (1, (), 3)
    assert twin.one("Pod") == []


def test_a_stage_that_the_submitter_creates_while_it_ends_is_deleted_too(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Running())
    backend = KubernetesBackend(submission, lambda: twin)
    backend.detach("export")
    twin.sleep(1)
    (pod,) = twin.one("Pod")
    twin.objects["Pod", pod]["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]

    def sleep(seconds: float) -> None:
        if not twin.made["JobSet"]:
            backend.submit("train", retry_failed=False)
            del twin.objects["Pod", pod]["metadata"]["finalizers"]
        twin.sleep(seconds)

    found = cancel(twin, submission, sleep, wait_seconds=60.0)
    train = name_of(submission.stages[1].workload)
    assert found.ended == (f"Job {submission.run_id}-submit", f"JobSet {train}")
    assert (twin.one("JobSet"), twin.one("Pod")) == ([], [])


def test_the_stage_of_another_run_is_kept(tiny_run: TinyRun) -> None:
    """Two runs with one export share its Job; cancelling one must not take the other's."""
    first = rendered(tiny_run)
    second = rendered(tiny_run.change(train__steps=13))
    assert name_of(first.stages[0].workload) == name_of(second.stages[0].workload)
    twin = Twin(lambda pod: Running())
    started(twin, first)
    backend = started(twin, second)
    job = name_of(first.stages[0].workload)
    found = cancel(twin, second, wait_seconds=60.0)
    line = f"Job {job}: belongs to run {first.run_id}, which has the same stage"
    assert found == Cancellation(kept=(line,))
    assert twin.one("Job") == [job]
    assert backend.cancel_run().kept == (line,)


def test_a_waiting_process_learns_that_the_run_was_cancelled_while_pods_end(
    submission: Submission,
) -> None:
    """The workload still exists while it is deleted in the foreground."""
    twin = Twin(lambda pod: Running())
    backend = started(twin, submission)
    (pod,) = twin.one("Pod")
    twin.objects["Pod", pod]["metadata"]["finalizers"] = ["example.com/keep"]

    def sleep(seconds: float) -> None:
        if twin.writes["delete"] == 0:
            KubernetesBackend(submission, lambda: twin).cancel_run()
        twin.sleep(seconds)

    sequence = Sequence(backend, sleep=sleep, clock=twin.clock)
    with pytest.raises(StageFailed, match="was cancelled with `tuneloop cancel`") as caught:
        sequence.run(retry_failed=False, stop_on_interrupt=False)
    assert caught.value.exit_code == 30
