"""What stages can write never becomes a Job: the cluster must know a submission from the bucket."""

from __future__ import annotations

import base64
import gzip
import json
import lzma
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Running, Twin, rendered, worker
from tuneloop.artifacts.runs.submission import (
    Submission,
    load_submission,
    save_submission,
    submission_url,
)
from tuneloop.errors import DataError
from tuneloop.k8s import names
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.confirmation import is_confirmed
from tuneloop.runs.sequence import Sequence
from tuneloop.storage import files


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    found = rendered(tiny_run)
    save_submission(found)
    return found


@pytest.fixture
def twin() -> Twin:
    return Twin(lambda pod: Running())


def stored(submission: Submission, twin: Twin) -> KubernetesBackend:
    """Open a run as `tuneloop wait RUN_ID` does."""
    found = load_submission(submission.artifacts, submission.run_id)
    return KubernetesBackend(found, lambda: twin, is_from_storage=True)


def evil(pod: dict[str, Any]) -> None:
    pod["serviceAccountName"] = "tuneloop-submitter"
    pod["automountServiceAccountToken"] = True
    pod["containers"][0]["envFrom"] = [{"secretRef": {"name": "any-secret"}}]


def tampered(submission: Submission, stage: int) -> Submission:
    changed = submission.model_copy(deep=True)
    evil(changed.stages[stage].workload["spec"]["template"]["spec"])
    return changed


@pytest.mark.parametrize("stage", [0, 1])
def test_a_made_up_job_is_refused(submission: Submission, twin: Twin, stage: int) -> None:
    save_submission(tampered(submission, stage))
    with pytest.raises(DataError, match=r"submission\.json: namespace .* run `tuneloop submit`"):
        Sequence(stored(submission, twin), clock=twin.clock, sleep=twin.sleep).run(
            retry_failed=False, stop_on_interrupt=False
        )
    assert not twin.made


def test_a_later_stage_that_was_changed_after_the_submission_is_refused(
    submission: Submission, twin: Twin
) -> None:
    KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
    before = dict(twin.made)
    save_submission(tampered(submission, 1))
    backend = stored(submission, twin)
    backend.submit("export", retry_failed=False)  # it is there, so nothing is created
    assert backend.poll("export").state != "Deleted"
    with pytest.raises(DataError, match="has no object of this run that was created from it"):
        backend.submit("train", retry_failed=False)
    assert twin.made == before


def test_what_was_submitted_goes_on(submission: Submission) -> None:
    twin = Twin()
    twin.act = worker(twin)
    KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
    backend = stored(submission, twin)
    results = Sequence(backend, clock=twin.clock, sleep=twin.sleep).run(
        retry_failed=False, stop_on_interrupt=False
    )
    assert [result.name for result in results] == [stage.name for stage in submission.stages]


def test_a_second_submit_confirms_the_newer_submission(submission: Submission, twin: Twin) -> None:
    KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
    newer = submission.model_copy(deep=True)
    newer.stages[1].workload["metadata"]["annotations"]["tuneloop.dev/git-commit"] = "f" * 40
    save_submission(newer)
    KubernetesBackend(newer, lambda: twin).submit("export", retry_failed=True)  # adopts the Job
    stored(submission, twin).submit("train", retry_failed=False)
    assert twin.made["Job"] == 2


def test_a_detached_run_is_confirmed_by_the_submitters_config_map(
    submission: Submission, twin: Twin
) -> None:
    KubernetesBackend(submission, lambda: twin).detach("export")
    assert is_confirmed(twin, submission)
    assert not is_confirmed(twin, tampered(submission, 0))


def test_members_of_a_sweep_are_confirmed_before_their_turn(
    submission: Submission, twin: Twin
) -> None:
    KubernetesBackend(submission, lambda: twin).confirm("export")
    assert twin.made == {"ConfigMap": 1}
    stored(submission, twin).submit("export", retry_failed=False)
    assert twin.made["Job"] == 1


def test_a_member_is_confirmed_by_the_submitter_of_its_sweep(
    submission: Submission, twin: Twin
) -> None:
    members = {"members": [json.loads(submission.to_json())]}
    data = base64.b64encode(lzma.compress(json.dumps(members).encode())).decode()
    name = names.submitter_name("s-sweep-1")
    metadata = {"name": name, "namespace": submission.namespace}
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    twin.apply({**held, "binaryData": {"sweep.json.xz": data}})
    assert is_confirmed(twin, submission, sweep_id="s-sweep-1")
    assert not is_confirmed(twin, submission)
    assert not is_confirmed(twin, tampered(submission, 0), sweep_id="s-sweep-1")


@pytest.mark.parametrize(
    "held",
    [
        "",
        "no base64",
        base64.b64encode(b"no gzip").decode(),
        base64.b64encode(gzip.compress(b"{}", mtime=0)).decode(),
        base64.b64encode(gzip.compress(b" " * 70_000_000, compresslevel=1, mtime=0)).decode(),
    ],
)
def test_a_config_map_with_something_else_confirms_nothing(
    held: str, submission: Submission, twin: Twin
) -> None:
    twin.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": names.submitter_name(submission.run_id)},
            "binaryData": {"submission.json.gz": held},
        }
    )
    assert not is_confirmed(twin, submission)


def test_the_submission_of_another_run_is_refused(submission: Submission) -> None:
    other = submission.model_copy(update={"run_id": "other-00000000"})
    url = submission_url(submission.artifacts, submission.run_id)
    files.write(url, other.to_json().encode())
    with pytest.raises(DataError, match="is the submission of run other-00000000, expected that"):
        load_submission(submission.artifacts, submission.run_id)
