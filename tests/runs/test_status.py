"""Status of a run: states, and that asking for them writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import (
    Action,
    Exit,
    Running,
    Twin,
    Unschedulable,
    publish_record,
    rendered,
    worker,
)
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.errors import DataError, StageFailed
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.sequence import Sequence
from tuneloop.runs.status import run_status
from tuneloop.storage import files, paths


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    return rendered(tiny_run, timeouts={"unschedulable_seconds": 20})


def backend_of(twin: Twin, submission: Submission) -> KubernetesBackend:
    return KubernetesBackend(submission, lambda: twin)


def states(twin: Twin, submission: Submission) -> dict[str, str]:
    return {each.name: each.state for each in run_status(backend_of(twin, submission))}


def snapshot(folder: str) -> dict[str, bytes]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found}


def test_from_nothing_to_done(submission: Submission) -> None:
    twin = Twin(lambda pod: Running())
    backend = backend_of(twin, submission)
    assert states(twin, submission) == dict.fromkeys(backend.fingerprints, "to run")
    backend.submit("export", retry_failed=True)
    twin.sleep(1)
    twin.sleep(1)
    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    beat = {"stage": "export", "attempt": "a", "updated_at": "2026-11-27T00:00:00+00:00"}
    files.write(paths.join(prefix, "progress.json"), json.dumps(beat).encode())
    found = run_status(backend_of(twin, submission))[0]
    assert (found.state, found.step) == ("Running", "")
    files.write(
        paths.join(prefix, "progress.json"), json.dumps({**beat, "step": 12, "total": 50}).encode()
    )
    found = run_status(backend_of(twin, submission))[0]
    assert (found.state, found.step) == ("Running", "12/50")
    twin.act = worker(twin)
    Sequence(backend, clock=twin.clock, sleep=twin.sleep).run(
        retry_failed=True, stop_on_interrupt=True
    )

    def unreachable() -> ClusterApi:
        raise AssertionError("every stage has its record: no cluster is needed")

    finished = run_status(KubernetesBackend(submission, unreachable))
    assert {each.state for each in finished} == {"done"}


def test_it_writes_nothing_even_where_there_is_a_log_to_keep_or_a_record_to_adopt(
    submission: Submission, tiny_run: TinyRun
) -> None:
    """A restarting pod's log and another run's record are there: only a supervisor stores them."""
    twin = Twin(lambda pod: Exit(75, log=b"again\n"))
    backend_of(twin, submission).submit("export", retry_failed=True)
    twin.step()
    twin.step()
    before, writes = snapshot(tiny_run.artifacts), twin.writes.copy()
    assert states(twin, submission)["export"] == "Restarting"
    assert (snapshot(tiny_run.artifacts), twin.writes) == (before, writes)

    other = rendered(tiny_run.change(eval__max_new_tokens=7))
    twin = Twin()

    def publish(pod: Object) -> Action:
        publish_record(twin.stage_of(pod))
        return Running()

    twin.act = publish
    for each in (other, submission):
        backend_of(twin, each).submit("export", retry_failed=True)
    twin.step()
    twin.step()
    before, writes = snapshot(tiny_run.artifacts), twin.writes.copy()
    found = [states(twin, each)["export"] for each in (other, submission)]
    assert sorted(found) == ["Succeeded", "done"]
    assert (snapshot(tiny_run.artifacts), twin.writes) == (before, writes)


def test_the_verdict_of_a_stage_that_was_given_up(submission: Submission) -> None:
    twin = Twin(lambda pod: Unschedulable("0/1 nodes are available: 1 Insufficient cpu."))
    sequence = Sequence(backend_of(twin, submission), clock=twin.clock, sleep=twin.sleep)
    with pytest.raises(StageFailed, match="no node fits pod") as caught:
        sequence.run(retry_failed=True, stop_on_interrupt=True)
    assert caught.value.exit_code == 21
    assert twin.one("Job") == []  # what could not start holds nothing
    found = run_status(backend_of(twin, submission))[0]
    assert (found.state, found.fix.split(",")[0]) == (
        "Unschedulable",
        "add a node pool of this shape",
    )
    assert "Insufficient cpu" in found.cause

    prefix = layout.stage_prefix(submission.artifacts, submission.run_id, "export")
    files.write(paths.join(prefix, "verdict.json"), b'{"state": 1}')
    with pytest.raises(DataError, match=r"verdict\.json: not a verdict \(.*asks the cluster"):
        run_status(backend_of(twin, submission))
