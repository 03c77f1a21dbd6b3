"""Test the Kubernetes backend on an in-memory cluster: detach, cancel, logs and owners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Action, Exit, Running, Twin, publish_record, rendered, worker
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.artifacts.runs.submission import Submission, load_submission
from tuneloop.errors import SpecError, StageFailed
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.runs.logs.follow import StageLog
from tuneloop.runs.sequence import Sequence
from tuneloop.storage import files, paths


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    return rendered(tiny_run)


def backend_of(twin: Twin, submission: Submission) -> KubernetesBackend:
    return KubernetesBackend(submission, lambda: twin)


@pytest.mark.parametrize(
    ("accelerator", "mesh", "message"),
    [
        ("v5e-4x4", {}, "train.batch_size: 8 rows do not divide evenly among 16 devices"),
        ("l4-8", {"tp": 4}, "train.mesh.tp: 4 does not divide the model, which has 2 query heads"),
        ("v5e-2x2", {"data": 3}, "data 3 x fsdp 1 x tp 1 are 3 devices, expected 4"),
    ],
)
def test_what_does_not_divide_among_the_devices_is_refused_before_anything_is_submitted(
    tiny_run: TinyRun, accelerator: str, mesh: dict[str, int], message: str
) -> None:
    tiny_run.change(train__mesh=mesh)
    with pytest.raises(SpecError, match=message):
        rendered(tiny_run, train={"accelerator": accelerator})


def test_the_client_has_the_methods_of_the_twin() -> None:
    """The client and the in-memory cluster have the same methods; mypy compares signatures."""
    client: type[ClusterApi] = Cluster
    twin: type[ClusterApi] = Twin
    names = [name for name in vars(ClusterApi) if not name.startswith("_")]
    assert len(names) == 9
    assert all(callable(getattr(each, name)) for each in (client, twin) for name in names)


def test_detach_creates_the_submitter_with_its_rights_and_again_adopts(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Running())
    backend = backend_of(twin, submission)
    for _ in range(2):
        backend.detach("export")
    accounts = {"ServiceAccount": 1, "Role": 1, "RoleBinding": 1}
    assert twin.made == {**accounts, "ConfigMap": 1, "Job": 1}
    assert twin.one("Job") == [f"{submission.run_id}-submit"]


def test_detach_replaces_a_submitter_that_has_ended_and_a_stage_that_has_failed(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Exit(65))
    backend = backend_of(twin, submission)
    backend.submit("export", retry_failed=True)
    backend.detach("export")
    for _ in range(2):
        twin.step()
    backend.detach("export")
    assert twin.made["Job"] == 3
    assert twin.one("Job") == [f"{submission.run_id}-submit"]


def test_what_the_submitter_creates_goes_with_its_job(submission: Submission) -> None:
    twin = Twin(lambda pod: Running())
    outside, inside = backend_of(twin, submission), backend_of(twin, submission)
    with pytest.raises(StageFailed, match="does not exist, expected the Job of this pod") as caught:
        inside.own_stages()
    assert caught.value.exit_code == 30
    outside.detach("export")
    inside.own_stages()
    inside.submit("export", retry_failed=False)
    twin.sleep(1)
    assert len(twin.one("Pod")) == 2
    # The owned objects are deleted too.
    assert outside.cancel_run() == Cancellation(ended=(f"Job {submission.run_id}-submit",))
    assert [twin.one(kind) for kind in ("Job", "Pod", "ConfigMap")] == [[], [], []]


def test_cancel_deletes_what_there_is(submission: Submission) -> None:
    twin = Twin(lambda pod: Running())
    backend = backend_of(twin, submission)
    assert backend.cancel_run() == Cancellation()
    backend.submit("export", retry_failed=True)
    name = submission.stages[0].workload["metadata"]["name"]
    assert backend.cancel_run("train") == Cancellation()  # another stage is left alone
    assert backend.exists("export")
    assert backend.cancel_run("export") == Cancellation(ended=(f"Job {name}",))
    assert not backend.exists("export")
    assert backend.cancel_run() == Cancellation()


def test_cancel_keeps_a_stage_that_has_ended(submission: Submission) -> None:
    twin = Twin(lambda pod: Exit(65))
    backend = backend_of(twin, submission)
    backend.submit("export", retry_failed=True)
    twin.step()
    twin.step()
    backend.cancel("export")
    assert backend.exists("export")


def test_logs_are_those_of_the_stages_pods_live_and_archived(submission: Submission) -> None:
    outcomes = iter([Exit(75, log=b"first\n"), Exit(75, log=b"second")])
    twin = Twin(lambda pod: next(outcomes, Running()))
    backend = backend_of(twin, submission)
    at = (submission.artifacts, submission.run_id, "export")
    assert list(StageLog(*at, backend.live_logs("export")).lines()) == []
    backend.submit("export", retry_failed=True)
    for _ in range(4):
        twin.sleep(1)
    live = list(StageLog(*at, backend.live_logs("export")).lines())
    assert [(each.number, each.line.text) for each in live] == [(1, b"first"), (2, b"second")]
    assert list(StageLog(*at).lines()) == []
    backend.poll("export")
    backend.archive("export")
    assert list(StageLog(*at).lines()) == live


def test_the_last_lines_of_a_stage_are_archived_after_its_record(submission: Submission) -> None:
    """A pod publishes its record and ends a moment later, when the next stage runs already."""
    twin = Twin()
    slow: Iterator[Action] = iter([Running(), Running(), Running(), Exit(0, log=b"published\n")])

    def act(pod: Object) -> Action:
        spec = twin.stage_of(pod)
        publish_record(spec)
        return next(slow) if spec.stage == "export" else Exit(0, log=b"at once\n")

    twin.act = act
    backend = backend_of(twin, submission)
    Sequence(backend, clock=twin.clock, sleep=twin.sleep).run(
        retry_failed=True, stop_on_interrupt=True
    )
    for stage, text in (("export", b"published"), ("train", b"at once"), ("import", b"at once")):
        (line,) = StageLog(submission.artifacts, submission.run_id, stage).lines()
        assert line.line.text == text


def test_a_stage_whose_heart_stops_is_stuck(tiny_run: TinyRun) -> None:
    submission = rendered(tiny_run, timeouts={"progress_seconds": 600})
    twin = Twin(lambda pod: Running())
    backend = backend_of(twin, submission)
    backend.submit("export", retry_failed=True)
    twin.sleep(1)
    twin.sleep(1)
    assert backend.poll("export").state == "Running"
    twin.sleep(700)
    # Without any heartbeat, the stage may still be importing or compiling.
    assert backend.poll("export").state == "Running"
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    files.write(paths.join(prefix, "progress.json"), b'{"updated_at": "2020-01-01T00:00:00Z"}')
    for seconds, state in ((400, "Running"), (400, "Running"), (400, "Stuck")):
        verdict = backend.poll("export")
        assert (verdict.state, verdict.exit_code) == (state, 20 if state == "Stuck" else None)
        twin.sleep(seconds)


@pytest.mark.parametrize(
    ("place", "pods"),
    [
        ({"export": {"shard_count": 3}}, 3 + 3),
        ({"train": {"accelerator": "v5e-4x4", "slices": 2}}, 8 + 3),
    ],
)
def test_stages_of_many_pods(tiny_run: TinyRun, place: dict[str, Any], pods: int) -> None:
    submission = rendered(tiny_run.change(train__batch_size=32), **place)
    twin = Twin()
    act, seen = worker(twin), set[str]()

    def peers(pod: Object) -> Action:
        """Let one pod per stage write the record, as the last shard or process 0 does."""
        seen.add(pod["metadata"]["name"])
        stage = pod["metadata"]["labels"]["tuneloop.dev/stage"]
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        return act(pod) if index == "0" or stage not in place else Running()

    twin.act = peers
    sequence = Sequence(backend_of(twin, submission), clock=twin.clock, sleep=twin.sleep)
    results = sequence.run(retry_failed=True, stop_on_interrupt=True)
    assert [result.state for result in results] == ["done"] * 4
    assert len(seen) == pods


def test_a_gang_starts_again_as_a_whole_and_disruptions_do_not_count(tiny_run: TinyRun) -> None:
    tiny_run.change(train__batch_size=16)
    submission = rendered(tiny_run, train={"accelerator": "v5e-4x4", "spot": True})
    twin = Twin()
    backend = backend_of(twin, submission)
    failures = iter(range(5))

    def preempted(pod: Object) -> Action:
        if next(failures, None) is not None:
            return Exit(143, disruption="PreemptionByScheduler")
        return Running()

    twin.act = preempted
    backend.submit("train", retry_failed=True)
    twin.step()
    for _ in range(5):
        twin.step()
    assert len(twin.one("Pod")) == 4
    assert twin.made["Pod"] > 4
    assert not backend.poll("train").is_final
    twin.act = lambda pod: Exit(75)
    for _ in range(10):
        twin.step()
    verdict = backend.poll("train")
    assert verdict.is_final
    assert verdict.state == "Transient"


def test_save_and_load_give_the_same_run(submission: Submission, tiny_run: TinyRun) -> None:
    backend_of(Twin(), submission).save()
    assert load_submission(submission.artifacts, submission.run_id) == submission


def test_a_record_of_another_run_is_success_before_anything_is_asked(
    submission: Submission,
) -> None:
    twin = Twin(lambda pod: Running())
    backend = backend_of(twin, submission)
    backend.submit("export", retry_failed=True)
    twin.step()
    (pod,) = twin.find("Pod")
    publish_record(twin.stage_of(pod))
    verdict = backend.poll("export")
    assert (verdict.state, verdict.exit_code) == ("Succeeded", 0)


def test_the_cluster_is_looked_at_before_the_storage(submission: Submission) -> None:
    """A Job that completes between the two reads has published its record."""

    class Fast(Twin):
        def get(self, kind: str, name: str) -> Object | None:
            self.step()
            return super().get(kind, name)

    twin = Fast()

    def publish(pod: Object) -> Action:
        publish_record(twin.stage_of(pod))
        return Exit(0)

    twin.act = publish
    backend = backend_of(twin, submission)
    backend.submit("export", retry_failed=False)
    twin.step()
    verdict = backend.poll("export")
    (job,) = twin.find("Job")
    assert job["status"]["conditions"][0]["type"] == "Complete"
    assert verdict.state == "Succeeded"
