"""The loop over the stages, on a cluster in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import (
    Action,
    Exit,
    Killed,
    Running,
    Twin,
    publish_record,
    rendered,
    worker,
)
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import Verdict, read_verdict
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.artifacts.stage_logs.attempt import list_attempts
from tuneloop.errors import DataError, StageFailed, StillRunning
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.names import STAGE
from tuneloop.runs.logs.follow import StageLog
from tuneloop.runs.results import StageResult
from tuneloop.runs.sequence import Callbacks, Sequence

STAGES = ["export", "train", "eval", "import"]


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    return rendered(tiny_run)


@pytest.fixture
def twin() -> Twin:
    made = Twin()
    made.act = worker(made)
    return made


def sequence(twin: Twin, submission: Submission, view: Callbacks | None = None) -> Sequence:
    backend = KubernetesBackend(submission, lambda: twin)
    return Sequence(backend, view or Callbacks(), twin.clock, twin.sleep)


def run(found: Sequence, **how: Any) -> list[StageResult]:
    return found.run(**{"retry_failed": True, "stop_on_interrupt": True, **how})


def test_each_stage_is_created_when_the_one_before_has_its_record(
    twin: Twin, submission: Submission
) -> None:
    told: list[str] = []
    jobs: dict[str, list[str]] = {}

    def started(name: str) -> None:
        told.append(f"{name} started")
        jobs[name] = twin.one("Job")

    view = Callbacks(
        started=started,
        waiting=lambda name, verdict: told.append(f"{name} {verdict.state}"),
        finished=lambda result: told.append(f"{result.name} {result.state}"),
    )
    results = run(sequence(twin, submission, view))
    assert [(r.name, r.state) for r in results] == [(name, "done") for name in STAGES]
    names = [stage.workload["metadata"]["name"] for stage in submission.stages]
    assert jobs == {stage: names[:number] for number, stage in enumerate(STAGES)}
    assert told[:3] == ["export started", "export Pulling", "export Pulling"]
    assert told[3:5] == ["export Running", "export done"]
    assert results[0].seconds == 15.0  # three polls of five seconds on the twin's clock

    again = run(sequence(twin, submission))
    assert [r.state for r in again] == ["cached"] * 4
    assert twin.made["Job"] == 4


def test_killed_at_any_call_and_run_again_it_ends_with_one_job_a_stage(
    tiny_run: TinyRun, submission: Submission
) -> None:
    """The supervisor keeps no state: whatever it was doing, the next one continues."""
    kills = 0
    for call in range(1, 200, 3):
        artifacts = str(tiny_run.folder / f"artifacts-{call}")
        moved = _moved(submission, artifacts)
        twin = Twin()
        twin.act = worker(twin)
        twin.kill_at = call
        try:
            run(sequence(twin, moved))
            break  # it needs fewer calls than this
        except Killed:
            kills += 1
        results = run(sequence(twin, moved), retry_failed=bool(call % 2))
        assert [r.name for r in results] == STAGES, call
        assert (twin.made["Job"], twin.made["ConfigMap"]) == (4, 4), call
    assert kills > 15


def _moved(submission: Submission, artifacts: str) -> Submission:
    text = submission.model_dump_json().replace(submission.artifacts, artifacts)
    return Submission.model_validate_json(text)


def test_two_supervisors_at_once_share_every_job(twin: Twin, submission: Submission) -> None:
    """Both submit every stage, one right after the other."""
    first, second = (KubernetesBackend(submission, lambda: twin) for _ in range(2))
    for stage in STAGES:
        for backend in (first, second):
            backend.submit(stage, retry_failed=True)
        while not first.poll(stage).is_final:
            twin.sleep(5)
        assert second.poll(stage).state == "Succeeded"
    assert (twin.made["Job"], twin.made["ConfigMap"]) == (4, 4)
    assert [r.state for r in run(sequence(twin, submission))] == ["cached"] * 4


def test_a_failed_stage_leaves_its_evidence_and_is_tried_again_by_run_alone(
    twin: Twin, submission: Submission
) -> None:
    twin.act = lambda pod: Exit(65, "the dataset is broken", log=b"last words\n")
    with pytest.raises(StageFailed, match=r"^stage export: DataError: .*broken; fix the") as caught:
        run(sequence(twin, submission))
    assert (caught.value.stage, caught.value.exit_code) == ("export", 12)
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    archived = read_verdict(prefix)
    assert archived is not None
    assert (archived.state, archived.exit_code) == ("DataError", 12)
    assert archived.workload is not None
    assert archived.pods[0]["status"]["phase"] == "Failed"
    (line,) = StageLog(submission.artifacts, submission.run_id, "export").lines()
    assert line.line.text == b"last words"

    twin.act = worker(twin)
    with pytest.raises(StageFailed, match="DataError"):  # wait tells it again
        run(sequence(twin, submission), retry_failed=False)
    assert twin.made["Job"] == 1
    assert len(run(sequence(twin, submission))) == 4
    assert twin.made["Job"] == 5


@pytest.mark.parametrize(
    ("code", "disruption"), [(75, ""), (143, ""), (137, "EvictionByEvictionAPI")]
)
def test_what_another_try_can_heal_is_tried_again_by_the_job(
    twin: Twin, submission: Submission, code: int, disruption: str
) -> None:
    act, failures = worker(twin), iter(range(3))

    def fails_three_times(pod: Any) -> Action:
        failed = next(failures, None) is not None
        return Exit(code, disruption=disruption) if failed else act(pod)

    twin.act = fails_three_times
    states: list[str] = []
    view = Callbacks(waiting=lambda name, verdict: states.append(verdict.state))
    assert len(run(sequence(twin, submission, view))) == 4
    assert twin.made["Job"] == 4
    assert states.count("Restarting") == 6  # after each failure, and until the next pod runs
    attempts = list_attempts(layout.stage_prefix(submission.artifacts, submission.run_id, "export"))
    assert len(attempts) == 4


def test_a_job_that_runs_out_of_tries_fails(twin: Twin, submission: Submission) -> None:
    twin.act = lambda pod: Exit(75, "storage answers 503")
    with pytest.raises(StageFailed, match=r"Transient: .*storage answers 503"):
        run(sequence(twin, submission))
    assert twin.made["Pod"] == 7  # the first and backoffLimit more


def test_interrupted_run_frees_the_stage_and_wait_leaves_it(
    twin: Twin, submission: Submission
) -> None:
    twin.act = lambda pod: Running()

    def interrupt(name: str, verdict: Any) -> None:
        if verdict.state == "Running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sequence(twin, submission, Callbacks(waiting=interrupt)), stop_on_interrupt=False)
    assert (len(twin.one("Job")), len(twin.one("Pod"))) == (1, 1)
    with pytest.raises(KeyboardInterrupt):
        run(sequence(twin, submission, Callbacks(waiting=interrupt)))
    assert (twin.one("Job"), twin.one("Pod"), twin.one("ConfigMap")) == ([], [], [])
    twin.act = worker(twin)
    assert [r.state for r in run(sequence(twin, submission))] == ["done"] * 4


def test_for_seconds_ends_the_wait_and_the_run_continues(
    twin: Twin, submission: Submission
) -> None:
    twin.act = lambda pod: Running()
    with pytest.raises(
        StillRunning, match=r"stage export is still running: Running: .*call `wait` again"
    ):
        run(sequence(twin, submission), for_seconds=60)
    assert 50 <= twin.seconds <= 60
    assert len(twin.one("Pod")) == 1


def test_a_deleted_job_is_a_verdict(twin: Twin, submission: Submission) -> None:
    def delete(pod: Any) -> Action:
        job = twin.objects["Job", submission.stages[0].workload["metadata"]["name"]]
        twin.delete("Job", job["metadata"]["name"], uid=job["metadata"]["uid"])
        return Running()

    twin.act = delete
    with pytest.raises(StageFailed, match=r"Deleted: .*deleted by someone else") as caught:
        run(sequence(twin, submission))
    assert caught.value.exit_code == 30


def test_a_record_counts_whatever_the_pod_says(twin: Twin, submission: Submission) -> None:
    def publish_and_fail(pod: Any) -> Action:
        publish_record(twin.stage_of(pod))
        return Exit(1)

    twin.act = publish_and_fail
    assert [r.state for r in run(sequence(twin, submission))] == ["done"] * 4
    assert twin.made["Job"] == 4


def test_a_record_that_appears_after_a_final_verdict_still_counts(
    twin: Twin, submission: Submission
) -> None:
    """A record can be published between the look at the cluster and the end of the stage."""

    class Late(KubernetesBackend):
        def poll(self, stage: str) -> Verdict:
            verdict = super().poll(stage)
            if verdict.state == "UserError":
                (pod,) = twin.find("Pod")
                publish_record(twin.stage_of(pod))
            return verdict

    act = worker(twin)
    twin.act = lambda pod: Exit(1) if pod["metadata"]["labels"][STAGE] == "export" else act(pod)
    results = Sequence(Late(submission, lambda: twin), Callbacks(), twin.clock, twin.sleep).run(
        retry_failed=True, stop_on_interrupt=True
    )
    assert [r.state for r in results] == ["done"] * 4
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    assert read_verdict(prefix) is None


def test_an_input_that_changed_stops_the_next_stage_before_it_is_created(
    twin: Twin, submission: Submission
) -> None:
    def corrupt(result: StageResult) -> None:
        (file,) = result.record.outputs
        Path(submission.artifacts, file.path).write_bytes(b"RESULT\n")

    with pytest.raises(DataError, match=r"result\.txt"):
        run(sequence(twin, submission, Callbacks(finished=corrupt)))
    assert len(twin.one("Job")) == 1


def test_a_run_that_shares_a_stage_takes_its_record(
    twin: Twin, submission: Submission, tiny_run: TinyRun
) -> None:
    run(sequence(twin, submission))
    other = rendered(tiny_run.change(eval__max_new_tokens=7))
    assert other.run_id != submission.run_id
    states = [(r.name, r.state) for r in run(sequence(twin, other))]
    assert states == [(s, "cached") for s in STAGES[:2]] + [(s, "done") for s in STAGES[2:]]
    found = records.find(other.artifacts, other.run_id, "train")
    assert found is not None
    assert found.run_id == other.run_id


def test_submit_creates_the_first_stage_without_a_record(
    twin: Twin, submission: Submission
) -> None:
    assert sequence(twin, submission).submit() == "export"
    assert sequence(twin, submission).submit() == "export"
    assert twin.made["Job"] == 1
    run(sequence(twin, submission))
    assert sequence(twin, submission).submit() is None
