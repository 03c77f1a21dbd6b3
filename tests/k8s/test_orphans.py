"""Objects of runs whose files are gone."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Exit, Running, Twin, rendered
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.orphans import Orphan, delete_orphans, find_orphans

DAYS = 86_400.0


@pytest.fixture
def submission(tiny_run: TinyRun) -> Submission:
    return rendered(tiny_run)


def find(twin: Twin, submission: Submission, *runs: str, **changes: Any) -> list[Orphan]:
    options = {"artifacts": submission.artifacts, "runs": runs, "days": 14.0, **changes}
    return find_orphans(twin, **options)


def ended(submission: Submission) -> Twin:
    """Return a cluster on which the first stage has failed, twenty days ago."""
    twin = Twin(lambda pod: Exit(65, log=b"bad\n"))
    KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
    for _ in range(5):
        twin.sleep(1)
    twin.seconds += 20 * DAYS
    return twin


def test_what_has_ended_is_deleted_if_its_run_has_no_folder(submission: Submission) -> None:
    twin = ended(submission)
    name = submission.stages[0].workload["metadata"]["name"]
    twin.calls = 0
    found = find(twin, submission, "another-run")
    assert [each.path for each in found] == [f"Job {name}", f"ConfigMap {name}"]
    assert {each.run_id for each in found} == {submission.run_id}
    assert twin.calls == 3  # one list for each kind
    assert find(twin, submission, submission.run_id) == []
    assert delete_orphans(twin, found) == found[:1]  # the ConfigMap goes with its Job
    assert twin.one("Job") == twin.one("ConfigMap") == []
    assert delete_orphans(twin, found) == []  # somebody else was first


def test_a_young_object_or_a_running_job_keeps_all_objects_of_its_run(
    submission: Submission,
) -> None:
    assert find(ended(submission), submission, days=30.0) == []
    twin = Twin(lambda pod: Running())
    KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
    twin.sleep(1)
    twin.seconds += 20 * DAYS
    assert find(twin, submission) == []


def test_runs_with_other_artifacts_are_left_alone(submission: Submission) -> None:
    twin = ended(submission)
    assert find(twin, submission, artifacts="gs://another/prefix") == []
    assert find(twin, submission, artifacts=submission.artifacts + "/") != []


@pytest.mark.parametrize(
    "data", [{}, {"spec.json": "{"}, {"spec.json": "[]"}, {"a": "{}", "b": "{}"}]
)
def test_a_config_map_that_names_no_artifacts_is_left_alone(
    submission: Submission, data: dict[str, str]
) -> None:
    twin = ended(submission)
    (name,) = twin.one("ConfigMap")
    twin.objects["ConfigMap", name]["data"] = data
    assert find(twin, submission) == []


def test_a_submission_that_is_cut_off_names_no_artifacts(submission: Submission) -> None:
    twin = ended(submission)
    (name,) = twin.one("ConfigMap")
    for data in (
        "H4sI",
        "####",
        "AAAA",
        base64.b64encode(gzip.compress(b"{}", mtime=0)[:-9]).decode(),
    ):
        twin.objects["ConfigMap", name] |= {"data": None, "binaryData": {"s.json.gz": data}}
        assert find(twin, submission) == []


def test_objects_of_nobody_are_left_alone(submission: Submission) -> None:
    twin = ended(submission)
    (name,) = twin.one("ConfigMap")
    twin.objects["ConfigMap", name]["metadata"]["labels"].pop("tuneloop.dev/run")
    assert find(twin, submission) == []  # the Job alone does not tell its artifacts


def test_the_config_map_of_a_submitter_names_its_artifacts(submission: Submission) -> None:
    twin = Twin()
    KubernetesBackend(submission, lambda: twin).detach("export")
    (job,) = twin.one("Job")
    condition = {"type": "Complete", "status": "True"}
    twin.objects["Job", job]["status"] = {"conditions": [condition]}
    twin.seconds += 20 * DAYS
    assert {each.kind for each in find(twin, submission)} == {"Job", "ConfigMap"}
