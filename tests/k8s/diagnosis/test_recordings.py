"""Test the diagnosis on recordings of real clusters: state, exit code, cause, fix and object."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.confusion import PROPERTY
from tests.k8s.diagnosis import recorded
from tuneloop.k8s.diagnosis.diagnose import diagnose
from tuneloop.k8s.diagnosis.observed import Observation
from tuneloop.specs.cluster import TimeoutSpec


def test_every_recording_has_an_expected_verdict() -> None:
    assert recorded.names() == sorted(recorded.expectations())
    assert len(recorded.names()) >= 80


@pytest.mark.parametrize("name", recorded.names())
def test_the_verdict_on_a_recording(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    expected = recorded.expectations()[name]
    verdict = diagnose(recorded.observation(name))
    record_property(PROPERTY, [expected.state, verdict.state])
    assert (verdict.state, verdict.exit_code) == (expected.state, expected.exit_code)
    assert expected.cause in verdict.cause
    assert expected.fix in verdict.fix
    assert bool(expected.fix) == bool(verdict.fix)
    assert verdict.about == expected.about
    assert "\n" not in verdict.cause


def _later(seen: Observation, seconds: float) -> Observation:
    return replace(seen, now=seen.now + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("name", "seconds", "exit_code"),
    [
        ("09-gang-no-configmap-1", 60, 10),
        ("09-gang-no-secret-env-1", 60, 10),
        ("30-gang-tainted-1", 900, 21),
        ("23-kueue-waiting-1", 86_400, 21),
        ("28-kueue-check-pending-1", 86_400, 21),
        ("27-kueue-drained-1", 86_400, 21),
        ("10-gang-node-lost-2", 200, 20),
        ("11-job-node-lost-2", 200, 20),
    ],
)
def test_a_condition_that_stays_ends_the_stage(name: str, seconds: float, exit_code: int) -> None:
    seen = recorded.observation(name)
    assert diagnose(seen).exit_code is None
    later = diagnose(_later(seen, seconds))
    assert (later.state, later.exit_code) == (diagnose(seen).state, exit_code)


def test_a_quota_that_a_restarting_gang_still_uses_gets_a_minute() -> None:
    seen = recorded.observation("02-gang-refused-quota-1")
    assert seen.workload is not None
    status = {**seen.workload["status"], "restarts": 1}
    restarted = replace(seen, workload={**seen.workload, "status": status})
    assert (diagnose(restarted).state, diagnose(restarted).exit_code) == ("QuotaExceeded", None)
    assert diagnose(_later(restarted, 60)).exit_code == 23


def test_refusals_of_an_earlier_child_job_are_no_cause() -> None:
    seen = recorded.observation("01-gang-refused-priority-label-1")
    (job,) = seen.child_jobs
    successor = {**job, "metadata": {**job["metadata"], "uid": "another"}}
    assert diagnose(replace(seen, child_jobs=[successor])).state != "ConfigError"


def test_the_failure_that_ended_a_gang_is_found_among_earlier_pods() -> None:
    """A peer's abort (134) restarts a gang; the pod that failed first is gone by then."""
    seen = recorded.observation("06-gang-71-134-1")
    (first,) = seen.pods
    casualty = copy.deepcopy(first)
    casualty["status"]["containerStatuses"][0]["state"]["terminated"] = {"exitCode": 134}
    casualty["metadata"]["name"] = "peer"
    assert diagnose(replace(seen, pods=[casualty])).state == "Crashed"
    verdict = diagnose(replace(seen, pods=[casualty], earlier_pods=[first]))
    assert (verdict.state, verdict.exit_code) == ("OutOfMemory", 11)


def test_cancelling_is_not_deletion_by_someone_else() -> None:
    seen = replace(recorded.observation("30-job-tainted-1"), workload=None, pods=(), events=())
    assert diagnose(seen).state == "Deleted"
    verdict = diagnose(replace(seen, cancelled=True))
    assert (verdict.state, verdict.exit_code) == ("Cancelled", 30)
    assert "tuneloop cancel" in verdict.cause


def test_the_text_of_a_cause_is_the_same_at_the_next_look() -> None:
    """A supervisor prints a cause when its text changes."""
    for name in recorded.names():
        seen = recorded.observation(name)
        verdict = diagnose(seen, TimeoutSpec(queue_seconds=10**6))
        if not verdict.is_final:
            later = diagnose(_later(seen, 5), TimeoutSpec(queue_seconds=10**6))
            assert later.cause == verdict.cause or later.is_final, name


@pytest.mark.parametrize(
    ("stage", "fix"),
    [
        ("export", "raise execution.cluster.export.memory, which is 64Mi, then"),
        ("train", "raise execution.cluster.train.memory, which is 64Mi (`tuneloop plan`"),
        ("import", "raise execution.cluster.import.memory, which is 64Mi, then"),
    ],
)
def test_advice_names_the_stage(stage: str, fix: str) -> None:
    seen = replace(recorded.observation("12-job-oomkilled-1"), stage=stage)
    assert fix in diagnose(seen).fix
    device = replace(recorded.observation("06-gang-71-134-1"), stage=stage)
    assert ("train." in diagnose(device).fix) == (stage == "train")
