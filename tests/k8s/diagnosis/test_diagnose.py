"""Test the diagnosis rules on recorded excerpts; tests/cluster causes most states for real."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.k8s.diagnosis.diagnose import diagnose
from tuneloop.k8s.diagnosis.observed import Observation
from tuneloop.k8s.diagnosis.pods import root_cause, sentence
from tuneloop.k8s.names import DEADLINE, QUEUE
from tuneloop.specs.cluster import TimeoutSpec

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(kind: str = "Job", age: float = 10, **conditions: tuple[str, str]) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "demo-train", "uid": "1", "creationTimestamp": ago(age)},
        "spec": {},
        "status": {
            "conditions": [
                {"type": kind_, "status": "True", "reason": reason, "message": message}
                for kind_, (reason, message) in conditions.items()
            ]
        },
    }


def failed(reason: str = "BackoffLimitExceeded", message: str = "", **more: Any) -> Any:
    return job(Failed=(reason, message), **more)


def pod(name: str = "p", phase: str = "Pending", age: float = 10, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "creationTimestamp": ago(age)}
    return {"metadata": metadata, "status": {"phase": phase, "startTime": ago(age), **status}}


def ended(
    code: int | None,
    name: str = "p",
    *,
    reason: str = "Error",
    message: str = "",
    finished: float = 5,
    disruption: str = "",
    pod_reason: str = "",
) -> dict[str, Any]:
    found = pod(name, "Failed")
    if code is not None:
        state = {"exitCode": code, "reason": reason, "message": message}
        state["finishedAt"] = ago(finished)
        found["status"]["containerStatuses"] = [{"name": "main", "state": {"terminated": state}}]
    if disruption:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
        found["status"]["conditions"] = [condition]
    if pod_reason:
        found["status"]["reason"] = pod_reason
    return found


def event(reason: str, message: str, uid: str = "p") -> dict[str, Any]:
    return {"reason": reason, "message": message, "involvedObject": {"uid": uid}}


def unscheduled(age: float, message: str = "0/3 nodes are available: 3 Insufficient x.") -> Any:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return pod(age=age, conditions=[{**condition, "message": message}])


def waits(reason: str, message: str = "", age: float = 10) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(age=age, containerStatuses=[{"name": "main", "state": state}])


def judged(workload: Any = None, *pods: Any, events: Any = (), **more: Any) -> Verdict:
    timeouts = more.pop("timeouts", TimeoutSpec())
    seen = Observation(
        **{
            "stage": "train",
            "name": "demo-train",
            "workload": workload,
            "pods": pods,
            "events": events,
            "record_published": False,
            "now": NOW,
            **more,
        }
    )
    return diagnose(seen, timeouts)


def queued(age: float, reason: str = "", message: str = "", by: str = "") -> dict[str, Any]:
    conditions = [
        {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
    ]
    if by:
        conditions.append({"type": "Evicted", "status": "True", "reason": by, "message": message})
    metadata = {"name": "w", "creationTimestamp": ago(age)}
    return {"metadata": metadata, "status": {"conditions": conditions}}


def suspended(age: float = 10) -> dict[str, Any]:
    found = job(age=age)
    found["metadata"]["labels"] = {QUEUE: "tpu"}
    found["spec"]["suspend"] = True
    return found


TERMINATED = '{"cause": "gs://b/x: missing; rebuild it", "exit_code": 65}'
DEVICE = (
    '{"cause": "stage train: user 10001 may not open /dev/vfio/0 (owner 0:0, mode 0600); set'
    ' pod_security: baseline for the stage", "exit_code": 77}'
)
CASES: dict[str, tuple[Verdict, str, int | None, str]] = {
    "data": (
        judged(failed("PodFailurePolicy"), ended(65, message=TERMINATED)),
        *("DataError", 12, "gs://b/x: missing; rebuild it"),
    ),
    "bug": (judged(failed(), ended(70)), "UserError", 10, "exit 70"),
    "a device of root": (
        judged(failed(), ended(77, message=DEVICE)),
        *("DeviceRefused", 20, "may not open /dev/vfio/0 (owner 0:0, mode 0600)"),
    ),
    "a bucket that refuses": (judged(failed(), ended(77)), "UserError", 20, "exit 77"),
    "spec": (judged(failed(), ended(78)), "ConfigError", 3, "exit 78"),
    "no program": (judged(failed(), ended(127)), "ConfigError", 10, "exit 127"),
    "killed": (judged(failed(), ended(137, reason="OOMKilled")), "OutOfMemory", 11, "OOMKilled"),
    "a child was killed": (judged(failed(), ended(137)), "OutOfMemory", 11, "exit 137"),
    "device memory": (judged(failed(), ended(71)), "OutOfMemory", 11, "exit 71"),
    "evicted by its node": (
        judged(failed(), ended(137, pod_reason="Evicted", disruption="TerminationByKubelet")),
        *("Evicted", 20, "Evicted"),
    ),
    "evicted by its own limit": (
        judged(failed(), ended(137, pod_reason="Evicted")),
        *("Evicted", 10, "Evicted"),
    ),
    "preempted to the end": (
        judged(failed(), ended(143, disruption="PreemptionByScheduler")),
        *("Preempted", 20, "PreemptionByScheduler"),
    ),
    "node lost": (
        judged(failed(), ended(143, disruption="DeletionByTaintManager")),
        *("NodeLost", 20, "DeletionByTaintManager"),
    ),
    "refused by the node": (
        judged(failed(), ended(None, pod_reason="UnexpectedAdmissionError")),
        *("AdmissionRejected", 20, "UnexpectedAdmissionError"),
    ),
    "too long in all": (
        judged(failed("DeadlineExceeded"), ended(143)),
        *("DeadlineExceeded", 31, "exceeded its total deadline"),
    ),
    "an attempt too long": (
        judged(failed(), ended(75, pod_reason="DeadlineExceeded")),
        *("DeadlineExceeded", 31, "an attempt exceeded its deadline"),
    ),
    "interrupted too often": (
        judged(failed(), ended(75, "a", finished=9), ended(75, "b", finished=1)),
        *("Transient", 20, "pod b: Error exit 75"),
    ),
    "its pods are gone": (
        judged(
            failed(
                "PodFailurePolicy",
                "Container main for pod ns/p failed with exit code 65 matching FailJob rule at"
                " index 1",
            )
        ),
        *("DataError", 12, "failed with exit code 65"),
    ),
    "nothing is known": (judged(failed("Strange", "words")), "Unknown", 20, "Strange words"),
    "it is failing": (
        judged(job(FailureTarget=("PodFailurePolicy", "")), ended(65)),
        *("DataError", 12, "exit 65"),
    ),
    "no record": (judged(job(Complete=("", ""))), "SucceededNoOutput", 20, "published no record"),
    "JobSet without record": (
        judged(job("JobSet", Completed=("AllJobsCompleted", ""))),
        *("SucceededNoOutput", 20, "published no record"),
    ),
    "deleted": (judged(None), "Deleted", 30, "deleted by someone else"),
    "not created": (judged(None, seen=False), "Queued", None, "does not exist yet"),
    "restarting": (
        judged(job("JobSet", RestartingJobSet=("", "")), ended(134)),
        *("Restarting", None, "is restarting all its pods; last failure: pod p: Error exit 134"),
    ),
    "one failed, the next is not there yet": (
        judged(job(), ended(75)),
        *("Restarting", None, "will start a new pod"),
    ),
    "image absent": (
        judged(job(), waits("ErrImagePull", "failed to pull: 403 Forbidden")),
        *("ImageError", 22, "403 Forbidden"),
    ),
    "image absent, only the event says so": (
        judged(
            job(),
            waits("ImagePullBackOff", "Back-off pulling image"),
            events=[event("Failed", "Failed to pull image: not found")],
        ),
        *("ImageError", 22, "Back-off pulling image"),
    ),
    "image invalid": (judged(job(), waits("InvalidImageName")), "ImageError", 22, "InvalidImage"),
    "registry slow on a node with 404 in its name": (
        judged(
            job(),
            waits("ErrImagePull", "registry.example:403/x@sha256:4010404a: i/o timeout"),
            events=[event("Scheduled", "Successfully assigned ns/p-404 to node-04042557")],
        ),
        *("ImageError", None, "i/o timeout"),
    ),
    "image absent, status code only": (
        judged(job(), waits("ErrImagePull", "unexpected status code 404: body")),
        *("ImageError", 22, "status code 404"),
    ),
    "registry slow": (judged(job(), waits("ErrImagePull", "i/o")), "ImageError", None, "i/o"),
    "registry down": (judged(job(), waits("ErrImagePull", "i/o", 999)), "ImageError", 22, "i/o"),
    "secret missing": (
        judged(job(), waits("CreateContainerConfigError", 'secret "s" not found', 99)),
        *("ConfigError", 10, 'secret "s" not found'),
    ),
    "volume missing": (
        judged(job(), pod(age=99), events=[event("FailedMount", 'configmap "c" not found')]),
        *("ConfigError", 10, 'configmap "c" not found'),
    ),
    "volume slow": (
        judged(job(), pod(age=99), events=[event("FailedMount", "timed out")]),
        *("Pulling", None, "timed out"),
    ),
    "pods refused": (
        judged(job(), events=[event("FailedCreate", 'violates PodSecurity "restricted"', "1")]),
        *("ConfigError", 10, "violates PodSecurity"),
    ),
    "no account": (
        judged(job(), events=[event("FailedCreate", 'serviceaccount "s" not found', "1")]),
        *("ConfigError", 10, 'serviceaccount "s" not found'),
    ),
    "quota": (
        judged(job(), events=[event("FailedCreate", "exceeded quota: q, requested: x", "1")]),
        *("QuotaExceeded", 23, "exceeded quota: q"),
    ),
    "no node yet": (judged(job(), unscheduled(10)), "Unschedulable", None, "3 Insufficient x."),
    "no node": (judged(job(), unscheduled(901)), "Unschedulable", 21, "0/3 nodes are available"),
    "node is coming": (
        judged(job(), unscheduled(901), events=[event("TriggeredScaleUp", "pool 0->1")]),
        *("Provisioning", None, "the autoscaler is creating"),
    ),
    "node never came": (
        judged(job(), unscheduled(3601), events=[event("TriggeredScaleUp", "pool 0->1")]),
        *("Provisioning", 21, "the autoscaler is creating"),
    ),
    "stockout": (
        judged(job(), unscheduled(901), events=[event("FailedScaleUp", "GCE out of resources")]),
        *("Stockout", 21, "GCE out of resources"),
    ),
    "cloud quota": (
        judged(job(), unscheduled(901), events=[event("FailedScaleUp", "GCE quota exceeded")]),
        *("QuotaExceeded", 23, "GCE quota exceeded"),
    ),
    "Kueue unknown": (judged(suspended(99)), "Queued", 21, "Kueue has no Workload"),
    "Kueue soon": (judged(suspended(9)), "Queued", None, "Kueue has no Workload"),
    "Kueue waits": (
        judged(suspended(), queue_workload=queued(9, "WaitingForQuota", "4 more needed")),
        *("Queued", None, "has not admitted demo-train: 4 more needed"),
    ),
    "Kueue waited": (
        judged(suspended(), queue_workload=queued(90_000, "WaitingForQuota", "4 more needed")),
        *("Queued", 21, "4 more needed"),
    ),
    "Kueue never": (
        judged(
            suspended(), queue_workload=queued(1, "Misconfigured", "LocalQueue tpu doesn't exist")
        ),
        *("Queued", 21, "LocalQueue tpu doesn't exist"),
    ),
    "Kueue has said nothing": (
        judged(suspended(), queue_workload=queued(1)),
        *("Queued", None, "it waits behind other workloads"),
    ),
    "Kueue gave up": (
        judged(suspended(), queue_workload=queued(1, reason="", message="", by="Deactivated")),
        *("Queued", 21, "Kueue has evicted demo-train for good"),
    ),
    "Kueue's time is over": (
        judged(
            suspended(),
            queue_workload=queued(
                9, message="exceeding the maximum", by="MaximumExecutionTimeExceeded"
            ),
        ),
        *("DeadlineExceeded", 31, "exceeding the maximum"),
    ),
    "running": (judged(job(), pod(phase="Running")), "Running", None, "1 of 1 pods are running"),
    "stuck": (
        judged(job(), pod(phase="Running"), progress_at=NOW - timedelta(seconds=1801)),
        *("Stuck", 20, "reported no progress for 1801 s"),
    ),
    "alive": (
        judged(job(), pod(phase="Running"), progress_at=NOW - timedelta(seconds=10)),
        *("Running", None, "1 of 1 pods are running"),
    ),
    "pulling": (judged(job(), waits("ContainerCreating")), "Pulling", None, "no running pod yet"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_on_its_evidence(name: str) -> None:
    verdict, state, exit_code, phrase = CASES[name]
    assert (verdict.state, verdict.exit_code) == (state, exit_code)
    assert phrase in verdict.cause
    assert verdict.fix or not verdict.is_final
    assert "\n" not in verdict.cause


def test_a_jobset_that_restarts_for_ever_meets_its_deadline() -> None:
    jobset = job("JobSet", age=7300)
    jobset["metadata"]["annotations"] = {DEADLINE: "7200"}
    verdict = judged(jobset, pod(phase="Running"))
    assert (verdict.state, verdict.exit_code) == ("DeadlineExceeded", 31)
    jobset["metadata"]["annotations"] = {DEADLINE: "7300"}
    assert judged(jobset, pod(phase="Running")).state == "Running"


def test_a_record_is_success_whatever_the_workload_says() -> None:
    """Distributed processes that abort during teardown have already finished their work."""
    verdict = judged(failed("PodFailurePolicy"), ended(134), record_published=True)
    assert (verdict.state, verdict.exit_code) == ("Succeeded", 0)
    assert "failed afterwards" in verdict.cause


def test_the_root_cause_of_a_gang_ended_first_and_is_no_casualty() -> None:
    pods = [
        ended(134, "b", finished=20),
        ended(65, "c", finished=10, message=TERMINATED),
        ended(70, "d", finished=5),
    ]
    found = root_cause(pods)
    assert found is not None
    assert found.pod == "c"
    verdict = judged(failed("FailJobSetFailurePolicyAction", kind="JobSet"), *pods)
    assert (verdict.state, verdict.exit_code) == ("DataError", 12)
    tied = [ended(70, "x", finished=5), ended(65, "y", finished=5, message=TERMINATED)]
    found = root_cause(tied)
    assert found is not None
    assert found.pod == "y"  # it has a message
    only = [ended(134, "m", finished=9), ended(134, "n", finished=5, disruption="x")]
    found = root_cause(only)
    assert found is not None
    assert found.pod == "n"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (TERMINATED, "gs://b/x: missing; rebuild it"),
        ('{"cause": "cut', '{"cause": "cut'),
        ("first\nlast \n\n", "last"),
        ("[]", "[]"),
        ('{"cause": 3}', ""),
        ("\ud800 lone", "? lone"),
        ("", ""),
        (None, ""),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_termination_messages_of_any_shape(message: Any, said: str) -> None:
    assert sentence(message) == said


WORDS = st.sampled_from(
    ["Failed", "True", "False", "Running", "Pending", "main", "OOMKilled", "Evicted", ago(5), "x"]
)
KEYS = st.sampled_from(
    *[
        [
            *("metadata", "status", "spec", "conditions", "type", "reason", "message", "phase"),
            *("containerStatuses", "state", "terminated", "waiting", "exitCode", "finishedAt"),
            *("name", "uid", "annotations", "labels", "kind", "suspend", "creationTimestamp"),
        ]
    ]
)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, ODD), st.lists(ODD, max_size=3), st.lists(ODD, max_size=3))
def test_odd_objects_never_raise(workload: Any, pods: Any, events: Any) -> None:
    before = copy.deepcopy((workload, pods, events))
    verdict = judged(workload, *pods, events=events)
    assert verdict.cause
    assert (workload, pods, events) == before
    assert judged(workload, *pods, events=events, record_published=True).exit_code == 0
