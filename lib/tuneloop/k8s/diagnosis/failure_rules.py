"""Why a Job or JobSet came to its end without a record: tables over pods and conditions.

One rule: the root cause is a pod's, and it is read before the pods are gone. Aborts that follow
from a peer's end (134, 143) are never it, as long as anything else is there.
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
    """What a code means, and what to do."""

    state: State
    fix: str


_AGAIN = "run again to continue from its last checkpoint"
_CODES = {
    1: _Meaning("UserError", "read its log: Python died before the stage could say why"),
    2: _Meaning("UserError", "correct the command line, or install the missing extra in the image"),
    65: _Meaning("DataError", "mend the input that it names, then run again"),
    66: _Meaning("DataError", "let the stage before it finish: use run or wait, not kubectl apply"),
    69: _Meaning("UserError", "make that service or storage reachable from the pod, run again"),
    70: _Meaning("UserError", "read its log for the traceback, and report the bug"),
    75: _Meaning("Transient", f"find out what keeps interrupting it, {_AGAIN}"),
    77: _Meaning("UserError", "give the stage's ServiceAccount access to what it names"),
    78: _Meaning("ConfigError", "change the spec as it says"),
    126: _Meaning("ConfigError", "use an image whose command can be executed"),
    127: _Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    128: _Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    134: _Meaning("Crashed", f"read the logs of its peers, which may have ended first; {_AGAIN}"),
    139: _Meaning("Crashed", f"read its log; {_AGAIN}"),
    143: _Meaning("Transient", f"find out who ends it, {_AGAIN}"),
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
    """The verdict on a workload that has come to its end; None if it has not."""
    workload = seen.workload
    # FailureTarget: it is failing and its pods are still ending; nothing can save it.
    failed = condition(workload, "Failed") or condition(workload, "FailureTarget")
    if failed is not None:
        return _failed(seen, text(failed.get("reason")), text(failed.get("message")))
    done = condition(workload, "Complete") or condition(workload, "Completed")
    if done is not None:
        return Verdict(
            "SucceededNoOutput",
            f"{seen.name} ended well but published no record",
            "check that its pods write to the artifacts URL that you read",
            exit_code=20,
        )
    return None


def _failed(seen: Observation, reason: str, message: str) -> Verdict:
    evidence = (f"{seen.name}: {reason} {message}", *_failures(seen))
    if reason == "DeadlineExceeded":
        return _overdue(seen, f"{seen.name} took longer than it may in all", evidence)
    failure = _cause(seen)
    if failure is None:
        return _from_message(seen, reason, message, evidence)
    state, fix, code = _judge(failure)
    indexes = text(status_of(seen.workload).get("failedIndexes"))
    which = f" (failed indexes {indexes})" if indexes else ""
    said = f": {failure.message}" if failure.message else ""
    if state == "DeadlineExceeded":
        return _overdue(seen, f"an attempt took longer than it may{which}: {failure}", evidence)
    return Verdict(state, f"{failure}{which}{said}", fix, evidence, code)


def _overdue(seen: Observation, cause: str, evidence: tuple[str, ...]) -> Verdict:
    key = f"execution.cluster.{seen.stage}.deadline_seconds"
    return Verdict("DeadlineExceeded", cause, f"raise {key}, {_AGAIN}", evidence, 31)


def _judge(failure: PodFailure) -> tuple[State, str, int]:
    """State, fix and exit code of a pod's failure; what the node did comes before the code."""
    if failure.reason == "Evicted" and not failure.disruption:
        fix = "raise ephemeral_storage of its machine: the pod wrote more than its limit"
        return "Evicted", fix, 10
    if failure.reason == "Evicted":
        return "Evicted", f"its node ran short; raise its requests, {_AGAIN}", 20
    if failure.disruption:
        state = _DISRUPTIONS.get(failure.disruption, "Preempted")
        return state, f"machines were taken away too often; {_AGAIN}, or do without spot", 20
    if failure.is_out_of_memory:
        fix = "lower train.batch_size or max_length_tokens, or use a larger machine"
        return "OutOfMemory", fix, 11
    if failure.reason == "DeadlineExceeded":
        return "DeadlineExceeded", "", 31
    code = failure.exit_code
    if code is None and _ADMISSION.fullmatch(failure.reason):
        return "AdmissionRejected", f"the node refused the pod, perhaps under repair; {_AGAIN}", 20
    meaning = _CODES.get(code if code is not None else -1)
    if meaning is None:
        return "Unknown", "read its log", 20
    return meaning.state, meaning.fix, _verb_code(code or 0)


def _verb_code(code: int) -> int:
    if code in (1, 126, 127, 128):
        return 10
    return verb_exit_code(code)


def _cause(seen: Observation) -> PodFailure | None:
    """Of a gang the first that ended, of pods one after the other the last try."""
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
    """The pods are gone; the Job's own words are left."""
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
