"""Explain what running pods do: they run, their node is lost, or the controller restarts them."""

from __future__ import annotations

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    entries,
    mapping,
    metadata_of,
    name_of,
    newest_events,
    seconds_since,
    text,
)
from tuneloop.k8s.diagnosis.pods import (
    failures_of,
    foreign_finalizers,
    is_being_deleted,
    is_lost,
    last_failure,
    live_pods,
    node_of,
    pod_titles,
    running_pods,
    seconds_overdue,
)
from tuneloop.k8s.events import event_time
from tuneloop.specs.cluster import TimeoutSpec

DELETION_GRACE_SECONDS = 30.0
"""Time after a pod's grace period in which a node that still answers has ended the pod."""
_JOB_FAILURES = ("DeadlineExceeded", "PodFailurePolicy", "BackoffLimitExceeded")
"""Reasons of the event with which a child Job ends."""


def node_lost(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a pod on a node that does not answer.

    Nothing ends such a pod until its node object is deleted: it stays in phase Running, and the
    controller waits for it.
    """
    lost = [pod for pod in live_pods(seen) if is_lost(pod)]
    if not lost:
        return None
    nodes = sorted({node_of(pod) for pod in lost if node_of(pod)})
    evicted = [pod for pod in lost if is_being_deleted(pod)]
    overdue = [pod for pod in evicted if seconds_overdue(pod, seen) > DELETION_GRACE_SECONDS]
    if overdue:
        then = "it was evicted and cannot end, because its node does not confirm it"
    elif evicted:
        then = "it is being evicted"
    else:
        then = "it is evicted if the node does not come back within five minutes"
    wait = "; the other pods wait for it" if len(running_pods(seen)) > len(lost) else ""
    named = " ".join(nodes) or "NODE"
    return Verdict(
        "NodeLost",
        f"{pod_titles(lost)} is lost: the node does not answer; {then}{wait}",
        f"if the machine is gone, delete its node (`kubectl delete node {named}`), then run again"
        " to continue from the last checkpoint",
        (
            *(f"Pod {name_of(pod)}: phase Running, Ready False" for pod in lost),
            *newest_events(seen),
        ),
        20 if overdue else None,
        f"Pod {name_of(lost[0])}",
    )


def held(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a deleted pod that a finalizer or its node keeps, so that no new pod starts."""
    if any(not is_being_deleted(pod) for pod in live_pods(seen)):
        return None
    for pod in entries(list(seen.pods)):
        if not is_being_deleted(pod):
            continue
        name, kept = name_of(pod), foreign_finalizers(pod)
        if kept:
            cause = f"finalizer {', '.join(kept)} keeps the deleted pod {name}"
            fix = f"ask the owner of the finalizer, or remove it from pod {name}"
        elif pod in live_pods(seen):
            cause = f"pod {name} is being deleted and has not ended"
            fix = "wait, or find out what the pod still does"
        else:
            continue
        return Verdict(
            "Restarting",
            f"{seen.title} starts no new pod yet: {cause}",
            fix,
            newest_events(seen),
            about=f"Pod {name}",
        )
    return None


def gang_failed(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a gang that restarts: one of its pods failed, or the JobSet has begun to restart."""
    if not seen.is_gang:
        return None
    failures = failures_of(seen.pods)
    restarting = condition(seen.workload, "RestartingJobSet")
    if not failures and (restarting is None or _all_run(seen)):
        return None
    why = last_failure(seen)
    if not failures and restarting is not None:
        is_free = "IgnoreMaxRestarts" in text(restarting.get("message"))
        why = "; a disruption is the reason, which is not counted" if is_free else ""
        why = f"{why}{_last_job_failure(seen)}"
    elif any(is_being_deleted(pod) for pod in entries(list(seen.pods))):
        why = f"; someone has deleted a pod{why}"
    return Verdict(
        "Restarting",
        f"{seen.name} is restarting all its pods{_times(seen)}{why}",
        evidence=newest_events(seen),
        about=seen.title,
    )


def running(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect pods that run, and a stage that runs without a sign of progress."""
    found = running_pods(seen)
    if not found:
        return None
    if seen.progress_at is not None:
        silent = seconds_since(seen.progress_at.isoformat(), seen.now)
        if silent > timeouts.progress_seconds:
            return Verdict(
                "Stuck",
                f"{seen.name} runs but has reported no progress for {silent:.0f} s",
                f"read its log (`tuneloop logs RUN_ID {seen.stage}`), then run again to continue",
                exit_code=20,
                about=seen.title,
            )
    total = max(seen.expected_pods(), len(live_pods(seen)))
    count = f"{len(found)} of {total} pods are running"
    return Verdict(
        "Running", f"{seen.name}: {count}{_times(seen)}{last_failure(seen)}", about=seen.title
    )


def restarting(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect failed pods of a Job that the controller is going to replace."""
    failures = failures_of(seen.pods)
    if not failures:
        return None
    count = f" after {len(failures)} failures" if len(failures) > 1 else ""
    does = "is starting" if live_pods(seen) else "will start"
    return Verdict(
        "Restarting",
        f"{seen.name} {does} a new pod{count}{last_failure(seen)}",
        evidence=newest_events(seen),
        about=seen.title,
    )


def _all_run(seen: Observation) -> bool:
    return len(running_pods(seen)) >= seen.expected_pods()


def _times(seen: Observation) -> str:
    if not seen.restarts:
        return ""
    if not _all_run(seen):
        return f", restart {seen.restarts}"
    return ", restarted once" if seen.restarts == 1 else f", restarted {seen.restarts} times"


def _last_job_failure(seen: Observation) -> str:
    """Return how the last child Job ended; the Job itself is gone when its successor exists."""
    age = seconds_since(metadata_of(seen.workload).get("creationTimestamp"), seen.now)
    found = [
        event
        for event in entries(list(seen.events))
        if event.get("reason") in _JOB_FAILURES
        and mapping(event.get("involvedObject")).get("kind") == "Job"
        and (seen.now - event_time(event)).total_seconds() <= age
    ]
    if not found:
        return ""
    last = max(found, key=event_time)
    return f"; its Job ended with {text(last.get('reason'))}: {text(last.get('message'))}"
