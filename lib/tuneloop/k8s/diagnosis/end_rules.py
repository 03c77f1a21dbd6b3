"""Explain why a Job or JobSet ended without a record, with tables over pods and conditions.

The root cause comes from a pod and is read before the pods are deleted. Exit codes 134 and 143
usually follow from the end of another process, so they are the root cause only if every failed
pod has one of them.
"""

from __future__ import annotations

import re

from tuneloop.artifacts.evaluation.verdict import State, Verdict
from tuneloop.k8s.api import Object
from tuneloop.k8s.diagnosis.exit_codes import AGAIN, MEANINGS, meaning_of, memory_fix, verb_code
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    entries,
    name_of,
    status_of,
    text,
)
from tuneloop.k8s.diagnosis.pods import CASUALTIES, PodFailure, failures_of, root_cause
from tuneloop.specs.cluster import TimeoutSpec

_DISRUPTIONS: dict[str, State] = {
    "PreemptionByScheduler": "Preempted",
    "EvictionByEvictionAPI": "Preempted",
    "TerminationTarget": "Preempted",
    "TerminationByKubelet": "NodeLost",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
}
_ADMISSION = re.compile(r"UnexpectedAdmissionError|OutOf\w+|NodeAffinity|Unexpected\w+")
_POLICY = re.compile(r"failed with exit code (\d+)")


def ended(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Return the verdict on a workload that has ended, or None if it has not ended."""
    workload = seen.workload
    # FailureTarget: the workload has failed for good, but its pods are still ending.
    failed = condition(workload, "Failed") or condition(workload, "FailureTarget")
    if failed is not None:
        return _failed(seen, text(failed.get("reason")), text(failed.get("message")))
    done = condition(workload, "Complete") or condition(workload, "Completed")
    if done is not None:
        return Verdict(
            "SucceededNoOutput",
            f"{seen.name} completed but published no record",
            "check that its pods write to the same artifacts URL that you read",
            exit_code=20,
            about=seen.title,
        )
    return None


def _failed(seen: Observation, reason: str, message: str) -> Verdict:
    evidence = (f"{seen.title}: {reason} {message}", *_failures(seen))
    if reason == "DeadlineExceeded":
        return _overdue(seen, f"{seen.name} exceeded its total deadline", evidence, seen.title)
    failure = _cause(seen)
    late = _late_job(seen)
    if late is not None and (failure is None or failure.exit_code in (None, 75, *CASUALTIES)):
        cause = f"an attempt exceeded its deadline{_after_restarts(seen)}: {_said(late)}"
        about = f"Job {name_of(late)}"
        return _overdue(seen, cause, (*evidence, f"{about}: {_said(late)}"), about)
    if failure is None:
        return _from_message(seen, reason, message, evidence)
    state, fix, code = _judge(seen, failure)
    indexes = text(status_of(seen.workload).get("failedIndexes"))
    which = f" (failed indexes {indexes})" if indexes else ""
    which += _after_restarts(seen)
    said = f": {failure.message}" if failure.message else ""
    about = f"Pod {failure.pod}"
    if state == "DeadlineExceeded":
        cause = f"an attempt exceeded its deadline{which}: {failure}"
        return _overdue(seen, cause, evidence, about)
    return Verdict(state, f"{failure}{which}{said}", fix, evidence, code, about)


def _late_job(seen: Observation) -> Object | None:
    """Return the child Job that exceeded the deadline of an attempt; it deletes its pods."""
    for job in entries(list(seen.child_jobs)):
        if (condition(job, "Failed") or {}).get("reason") == "DeadlineExceeded":
            return job
    return None


def _said(job: Object) -> str:
    return text((condition(job, "Failed") or {}).get("message"))


def _after_restarts(seen: Observation) -> str:
    return f" after {seen.restarts} restarts" if seen.restarts else ""


def _overdue(seen: Observation, cause: str, evidence: tuple[str, ...], about: str) -> Verdict:
    key = f"{seen.setting}.deadline_seconds"
    if "attempt" in cause:
        key = f"{seen.setting}.attempt_deadline_seconds"
    return Verdict("DeadlineExceeded", cause, f"raise {key}, {AGAIN}", evidence, 31, about)


def _judge(seen: Observation, failure: PodFailure) -> tuple[State, str, int]:
    """Return state, fix and exit code of a pod's failure; node problems outrank exit codes."""
    if failure.reason == "Evicted" and not failure.disruption:
        fix = f"raise {seen.setting}.ephemeral_storage, because the pod wrote more than its limit"
        return "Evicted", fix, 10
    if failure.reason == "Evicted":
        return "Evicted", f"its node ran out of resources; raise its requests, {AGAIN}", 20
    if failure.disruption:
        state = _DISRUPTIONS.get(failure.disruption, "Preempted")
        return state, f"its machines were reclaimed too often; {AGAIN}, or do not use spot", 20
    if failure.is_out_of_memory:
        return "OutOfMemory", memory_fix(seen, failure.message, exit_code=failure.exit_code), 11
    if failure.reason == "DeadlineExceeded":
        return "DeadlineExceeded", "", 31
    if failure.reason == "ContainerStatusUnknown":
        return "NodeLost", f"its node lost the container, after a restart of the node; {AGAIN}", 20
    code = failure.exit_code
    if code is None and _ADMISSION.fullmatch(failure.reason):
        fix = f"the node rejected the pod and may be under repair; {AGAIN}"
        return "AdmissionRejected", fix, 20
    meaning = meaning_of(seen, code, failure.message)
    if meaning is None:
        return "Unknown", "read its log", 20
    return meaning.state, meaning.fix, verb_code(code or 0)


def _cause(seen: Observation) -> PodFailure | None:
    """Return the root cause for a JobSet, or the last failure for the retries of a Job.

    If only casualties of the last attempt are left, the failure that caused them may be among the
    pods of earlier looks.
    """
    if seen.is_gang:
        found = root_cause(seen.pods)
        if found is None or found.is_casualty:
            earlier = root_cause((*seen.pods, *seen.earlier_pods))
            return found if earlier is None or earlier.is_casualty else earlier
        return found
    failures = failures_of(seen.pods)
    last = max(failures, key=lambda failure: failure.finished_at, default=None)
    if last is None or not last.is_casualty:
        return last
    return root_cause(seen.pods)


def _from_message(
    seen: Observation, reason: str, message: str, evidence: tuple[str, ...]
) -> Verdict:
    """Derive the verdict from the Job's message, for a workload whose pods no longer exist."""
    found = _POLICY.search(message)
    code = int(found[1]) if found else None
    if code == 137 or code == 71:
        fix = memory_fix(seen, "", exit_code=code)
        return Verdict("OutOfMemory", message, fix, evidence, 11, seen.title)
    meaning = MEANINGS.get(code if code is not None else -1)
    if meaning is not None and code is not None:
        return Verdict(meaning.state, message, meaning.fix, evidence, verb_code(code), seen.title)
    if "DisruptionTarget" in message:
        return Verdict("Preempted", message, AGAIN, evidence, 20, seen.title)
    cause = f"{seen.name} failed: {reason or 'no reason given'} {message}".rstrip()
    return Verdict("Unknown", cause, f"read its log, {AGAIN}", evidence, 20, seen.title)


def _failures(seen: Observation) -> tuple[str, ...]:
    found = failures_of((*seen.earlier_pods, *seen.pods))
    return tuple(f"{each}{f': {each.message}' if each.message else ''}" for each in found)
