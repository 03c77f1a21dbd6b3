"""Explain why Kueue does not admit a stage, or why it took an admission back.

The conditions are those of Kueue 0.19. Most reasons are in the message alone: `Pending` is the
reason both of a workload that waits for its turn and of one that no quota can ever admit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.verdict import State, Verdict
from tuneloop.k8s.api import Object
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    count,
    describe_event,
    entries,
    mapping,
    metadata_of,
    name_of,
    seconds_since,
    status_of,
    text,
)
from tuneloop.k8s.diagnosis.pods import live_pods
from tuneloop.k8s.diagnosis.start_rules import CONFIG_GRACE_SECONDS
from tuneloop.k8s.events import event_time
from tuneloop.k8s.names import QUEUE
from tuneloop.specs.cluster import TimeoutSpec

_OVERDUE = "MaximumExecutionTimeExceeded"
_WAITS = "wait, or raise timeouts.queue_seconds"
_DEACTIVATED = "Deactivated"
_STOPPED = "Stopped"
_TIMED_OUT = "PodsReadyTimeout"


@dataclass(frozen=True)
class _Never:
    """Why Kueue never admits a workload unless the queue or the spec changes."""

    pattern: re.Pattern[str]
    fix: str
    """May contain the groups of the pattern, and `namespace`."""


_NEVER = (
    _Never(
        re.compile(r"LocalQueue (?P<name>\S+) doesn't exist"),
        "create LocalQueue {name} in namespace {namespace}, or correct execution.cluster.queue",
    ),
    _Never(
        re.compile(r"namespace doesn't match ClusterQueue selector"),
        "label namespace {namespace} as the ClusterQueue's namespaceSelector requires",
    ),
    _Never(
        re.compile(r"> maximum capacity"),
        "request less than the largest quota of the queue, or use another execution.cluster.queue",
    ),
    _Never(
        re.compile(r"resource (?P<name>\S+) unavailable in ClusterQueue|NoMatchingFlavor"),
        "use a queue that covers the accelerator (execution.cluster.queue), or another accelerator",
    ),
)
_NEVER_REASONS = {"Misconfigured", "NoMatchingFlavor", "ExceedsMaxQuota"}
"""Reasons of other versions of Kueue for the same."""
_GIVEN_UP = {
    "DeactivatedDueToRequeuingLimitExceeded": "find out why its pods were not ready in time (a slow"
    " image pull, a missing node), ask for a longer waitForPodsReady.timeout in Kueue's"
    " configuration, then run again",
    "DeactivatedDueToAdmissionCheck": "satisfy the admission check, or ask its owner, then"
    " run again",
}


def queued(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a workload that Kueue keeps suspended."""
    queue = text(mapping(metadata_of(seen.workload).get("labels")).get(QUEUE))
    if not queue or mapping(mapping(seen.workload).get("spec")).get("suspend") is not True:
        return None
    admission = seen.queue_workload
    if admission is None:
        age = seconds_since(metadata_of(seen.workload).get("creationTimestamp"), seen.now)
        return Verdict(
            "Queued",
            f"{seen.name} is suspended and Kueue has no Workload for it",
            f"create LocalQueue {queue} in the namespace, or correct execution.cluster.queue",
            exit_code=21 if age > CONFIG_GRACE_SECONDS else None,
            about=seen.title,
        )
    return _given_up(seen, admission) or _evicted(seen, admission) or _waits(seen, queue, timeouts)


def _given_up(seen: Observation, admission: Object) -> Verdict | None:
    """Detect a Workload that Kueue has deactivated: it does not start by itself any more."""
    evicted = condition(admission, "Evicted") or {}
    reason, message = text(evicted.get("reason")), text(evicted.get("message"))
    is_inactive = mapping(admission.get("spec")).get("active") is False
    if not is_inactive and reason not in (_DEACTIVATED, _OVERDUE):
        return None
    state: State = "Queued"
    code = 21
    if _OVERDUE in reason:
        state, code = "DeadlineExceeded", 31
        fix = f"raise {seen.setting}.deadline_seconds, then run again to continue"
    else:
        fix = _GIVEN_UP.get(reason, "ask the owner of the queue, then run again")
    return Verdict(
        state,
        f"Kueue has evicted {seen.name} for good: {message or reason or 'its Workload is inactive'}"
        f"{_pod_warning(seen)}",
        fix,
        _evidence(seen, admission),
        code,
        _about(admission),
    )


def _evicted(seen: Observation, admission: Object) -> Verdict | None:
    """Detect a preemption while the pods still end."""
    evicted = condition(admission, "Evicted") or {}
    if evicted.get("reason") != "Preempted" or not live_pods(seen):
        return None
    return Verdict(
        "Preempted",
        f"Kueue has preempted {seen.name}, and its pods are ending:"
        f" {_without_ids(text(evicted.get('message')))}",
        "wait until the queue admits it again, or use a higher execution.cluster.priority_class",
        _evidence(seen, admission),
        about=_about(admission),
    )


def _waits(seen: Observation, queue: str, timeouts: TimeoutSpec) -> Verdict:
    admission = seen.queue_workload or {}
    refused = condition(admission, "QuotaReserved", "False") or {}
    reason, message = text(refused.get("reason")), text(refused.get("message"))
    said = f"{reason} {message}"
    age = seconds_since(metadata_of(admission).get("creationTimestamp"), seen.now)
    is_final, fix = age > timeouts.queue_seconds, _WAITS
    if (never := _never(seen, said)) is not None:
        is_final, fix = True, never
    elif reason in _NEVER_REASONS:
        is_final, fix = True, "correct execution.cluster.queue or the shape"
    elif (inactive := _inactive(seen, message)) is not None:
        message, fix, is_broken = inactive
        is_final = is_final or is_broken
    elif condition(admission, "QuotaReserved") is not None:
        names = [text(c.get("name")) for c in _pending_checks(admission)]
        message = f"quota is reserved, and admission check {', '.join(names)} is pending"
        fix = "ask the owner of the admission check, or raise timeouts.queue_seconds"
    elif (condition(admission, "Evicted") or {}).get("reason") == _TIMED_OUT:
        message = "Kueue waits before it tries again"
    elif not message:
        message = "it waits behind other workloads"
    return Verdict(
        "Queued",
        f"LocalQueue {queue} has not admitted {seen.name}: {message}{_history(seen)}",
        fix,
        _evidence(seen, admission),
        21 if is_final else None,
        _about(admission),
    )


def _never(seen: Observation, said: str) -> str | None:
    """Return the fix if Kueue can never admit the workload as it is."""
    for row in _NEVER:
        found = row.pattern.search(said)
        if found is not None:
            return row.fix.format(**found.groupdict(), namespace=seen.namespace or "of the run")
    return None


def _inactive(seen: Observation, message: str) -> tuple[str, str, bool] | None:
    """Return message, fix and whether it is an error, if the queue does not admit anything."""
    if "is inactive" not in message:
        return None
    for kind, queue in (("ClusterQueue", seen.cluster_queue), ("LocalQueue", seen.local_queue)):
        found = condition(queue, "Active", "False")
        if found is None or found.get("reason") == "ClusterQueueIsInactive":
            continue
        cause = f"{kind} {name_of(queue)} is inactive: {text(found.get('message'))}"
        if found.get("reason") == _STOPPED:
            fix = f"wait until an administrator sets stopPolicy of {kind} {name_of(queue)} to None"
            return cause, fix, False
        return cause, f"ask an administrator to repair {kind} {name_of(queue)}", True
    fix = "ask an administrator why (`kubectl describe clusterqueue` says so)"
    return message, fix, False


def _history(seen: Observation) -> str:
    """Return how the Workload lost an earlier admission."""
    admission = seen.queue_workload or {}
    evicted = condition(admission, "Evicted")
    if evicted is None:
        return ""
    reason = text(evicted.get("reason"))
    if reason == "Preempted":
        return "; it was preempted and waits again"
    if reason == _TIMED_OUT:
        tries = count(mapping(status_of(admission).get("requeueState")).get("count"))
        return (
            f"; it was evicted because its pods were not ready within waitForPodsReady.timeout of"
            f" Kueue, try {tries or 1}"
            f"{_pod_warning(seen)}"
        )
    return f"; it was evicted: {text(evicted.get('message'))}"


def _pod_warning(seen: Observation) -> str:
    """Return the last warning about a pod, which says why it was not ready."""
    found = [
        event
        for event in entries(list(seen.events))
        if event.get("type") == "Warning"
        and mapping(event.get("involvedObject")).get("kind") == "Pod"
    ]
    if not found:
        return ""
    last = max(found, key=event_time)
    return f"; its last pod: {text(last.get('reason'))}: {text(last.get('message'))}"


def _pending_checks(admission: Object) -> list[Object]:
    checks = entries(status_of(admission).get("admissionChecks"))
    return [check for check in checks if check.get("state") != "Ready"]


def _evidence(seen: Observation, admission: Object) -> tuple[str, ...]:
    lines = [
        f"{_about(admission)}: {text(each.get('type'))}={text(each.get('status'))}"
        f" {text(each.get('reason'))}: {text(each.get('message'))}"
        for each in entries(status_of(admission).get("conditions"))
        if each.get("type") in ("Evicted", "QuotaReserved", "Requeued")
    ]
    return (*lines, *(describe_event(event) for event in entries(list(seen.events))[-3:]))


def _about(admission: Object) -> str:
    return f"Workload {name_of(admission)}"


def _without_ids(message: str) -> str:
    """Remove the ids in a message of Kueue, which say nothing to a person."""
    return re.sub(r" \(UID: [^)]*\)", "", message).split(";")[0]
