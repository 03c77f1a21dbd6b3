"""Explain why a Job or JobSet ended without a record, with tables over pods and conditions.

The root cause comes from a pod and is read before the pods are deleted. Exit codes 134 and 143
usually follow from the end of another process, so they are the root cause only if every failed
pod has one of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuneloop.artifacts.verdict import State, Verdict
from tuneloop.errors import verb_exit_code
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    PodFailure,
    condition,
    entries,
    pod_failure,
    root_cause,
    status_of,
    text,
)


@dataclass(frozen=True)
class _Meaning:
    """State and fix for an exit code."""

    state: State
    fix: str


_AGAIN = "run again to continue from its last checkpoint"
_CODES = {
    1: _Meaning("UserError", "read its log: Python ended before the stage could report a cause"),
    2: _Meaning("UserError", "correct the command line, or install the missing extra in the image"),
    65: _Meaning("DataError", "fix the input that the message names, then run again"),
    66: _Meaning(
        "DataError",
        "let the previous stage finish first: use `tuneloop run` or `wait`, not kubectl apply",
    ),
    69: _Meaning("UserError", "make the service or storage reachable from the pod, then run again"),
    70: _Meaning("UserError", "read its log for the traceback, and report the bug"),
    75: _Meaning("Transient", f"find out what keeps interrupting it, {_AGAIN}"),
    77: _Meaning(
        "UserError", "give the stage's ServiceAccount access to the resource that the message names"
    ),
    78: _Meaning("ConfigError", "change the spec as the message says"),
    126: _Meaning("ConfigError", "use an image whose command can be executed"),
    127: _Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    128: _Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    134: _Meaning(
        "Crashed", f"read the logs of the other pods, which may have failed first; {_AGAIN}"
    ),
    139: _Meaning("Crashed", f"read its log; {_AGAIN}"),
    143: _Meaning("Transient", f"find out what terminates it, {_AGAIN}"),
}
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


def end_of(seen: Observation) -> Verdict | None:
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
        )
    return None


def _failed(seen: Observation, reason: str, message: str) -> Verdict:
    evidence = (f"{seen.name}: {reason} {message}", *_failures(seen))
    if reason == "DeadlineExceeded":
        return _overdue(seen, f"{seen.name} exceeded its total deadline", evidence)
    failure = _cause(seen)
    if failure is None:
        return _from_message(seen, reason, message, evidence)
    state, fix, code = _judge(failure)
    indexes = text(status_of(seen.workload).get("failedIndexes"))
    which = f" (failed indexes {indexes})" if indexes else ""
    said = f": {failure.message}" if failure.message else ""
    if state == "DeadlineExceeded":
        return _overdue(seen, f"an attempt exceeded its deadline{which}: {failure}", evidence)
    return Verdict(state, f"{failure}{which}{said}", fix, evidence, code)


def _overdue(seen: Observation, cause: str, evidence: tuple[str, ...]) -> Verdict:
    key = f"execution.cluster.{seen.stage}.deadline_seconds"
    return Verdict("DeadlineExceeded", cause, f"raise {key}, {_AGAIN}", evidence, 31)


def _judge(failure: PodFailure) -> tuple[State, str, int]:
    """Return state, fix and exit code of a pod's failure; node problems outrank exit codes."""
    if failure.reason == "Evicted" and not failure.disruption:
        fix = "raise ephemeral_storage of the stage, because the pod wrote more than its limit"
        return "Evicted", fix, 10
    if failure.reason == "Evicted":
        return "Evicted", f"its node ran out of resources; raise its requests, {_AGAIN}", 20
    if failure.disruption:
        state = _DISRUPTIONS.get(failure.disruption, "Preempted")
        return state, f"its machines were reclaimed too often; {_AGAIN}, or do not use spot", 20
    if failure.is_out_of_memory:
        fix = "lower train.batch_size or max_length_tokens, or use a larger machine"
        return "OutOfMemory", fix, 11
    if failure.reason == "DeadlineExceeded":
        return "DeadlineExceeded", "", 31
    code = failure.exit_code
    if code is None and _ADMISSION.fullmatch(failure.reason):
        fix = f"the node rejected the pod and may be under repair; {_AGAIN}"
        return "AdmissionRejected", fix, 20
    meaning = _CODES.get(code if code is not None else -1)
    if meaning is None:
        return "Unknown", "read its log", 20
    return meaning.state, meaning.fix, _verb_code(code or 0)


def _verb_code(code: int) -> int:
    if code in (1, 126, 127, 128):
        return 10
    return verb_exit_code(code)


def _cause(seen: Observation) -> PodFailure | None:
    """Return the root cause for a JobSet, or the last failure for the retries of a Job."""
    if (seen.workload or {}).get("kind") == "JobSet":
        return root_cause(seen.pods)
    found = [failure for pod in entries(list(seen.pods)) if (failure := pod_failure(pod))]
    last = max(found, key=lambda failure: failure.finished_at, default=None)
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
        fix = "lower train.batch_size or max_length_tokens, or use a larger machine"
        return Verdict("OutOfMemory", message, fix, evidence, 11)
    meaning = _CODES.get(code if code is not None else -1)
    if meaning is not None and code is not None:
        return Verdict(meaning.state, message, meaning.fix, evidence, _verb_code(code))
    if "DisruptionTarget" in message:
        return Verdict("Preempted", message, _AGAIN, evidence, 20)
    cause = f"{seen.name} failed: {reason or 'no reason given'} {message}".rstrip()
    return Verdict("Unknown", cause, f"read its log, {_AGAIN}", evidence, 20)


def _failures(seen: Observation) -> tuple[str, ...]:
    found = (pod_failure(pod) for pod in entries(list(seen.pods)))
    return tuple(str(failure) for failure in found if failure)
