"""Diagnose a stage: derive one verdict with cause, evidence and fix from its Kubernetes objects.

The rules are pure functions in a table, in order of priority. The first rule that recognizes the
state returns the verdict. Ages are computed only from the server's timestamps and the server's
clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tuneloop.artifacts.verdict import Verdict
from tuneloop.k8s.diagnosis.failure_rules import end_of
from tuneloop.k8s.diagnosis.observed import (
    Object,
    Observation,
    condition,
    entries,
    mapping,
    metadata_of,
    pod_failure,
    seconds_since,
    status_of,
    text,
    waiting,
)
from tuneloop.k8s.names import DEADLINE, QUEUE
from tuneloop.specs.cluster import TimeoutSpec

CONFIG_GRACE_SECONDS = 60.0
"""Time to allow for a ConfigMap or Secret created after its pod, and for Kueue to see a Job."""
DEADLINE_GRACE_SECONDS = 60.0
"""Time to allow for the controller to report an exceeded deadline itself."""

_ABSENT_IMAGE = re.compile(
    r"(?<![\w.:/@-])40[134](?![\w.-])"  # a status code, not part of a digest or of a node's name
    r"|unauthorized|forbidden|denied|not found|manifest unknown|does not exist|invalid reference"
)
"""Parts of image pull errors that a retry cannot fix."""
_PERMANENT_QUEUE = {"Misconfigured", "NoMatchingFlavor", "ExceedsMaxQuota"}
"""Reasons for which Kueue never admits a workload unless the queue or the spec changes."""
_MISSING = ("not found", "couldn't find key", "references non-existent")


def diagnose(seen: Observation, timeouts: TimeoutSpec | None = None) -> Verdict:
    """Return the verdict on a stage; never raises.

    Args:
        seen: state of the stage in cluster and storage.
        timeouts: how long to wait for a condition that may still resolve itself.
    """
    chosen = timeouts or TimeoutSpec()
    for rule in RULES:
        verdict = rule(seen, chosen)
        if verdict is not None:
            return verdict
    return Verdict("Pulling", f"{seen.name} has no running pod yet", evidence=_events(seen))


def _succeeded(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    if not seen.record_published:
        return None
    failed = condition(seen.workload, "Failed") is not None
    after = "; its workload failed afterwards, which does not matter" if failed else ""
    return Verdict("Succeeded", f"the record is published{after}", exit_code=0)


def _gone(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    if seen.workload is not None:
        return None
    if not seen.seen:
        return Verdict("Queued", f"{seen.name} does not exist yet")
    return Verdict(
        "Deleted",
        f"{seen.name} was deleted by someone else before its record was published",
        "run again to continue from its last checkpoint",
        exit_code=30,
    )


def _ended(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    return end_of(seen)


def _overdue(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Enforce the total deadline, because disruptions can restart a JobSet without limit."""
    found = metadata_of(seen.workload)
    try:
        allowed = float(mapping(found.get("annotations"))[DEADLINE])
    except (KeyError, TypeError, ValueError):
        return None
    if QUEUE in mapping(found.get("labels")):
        return None  # time in a queue does not count; Kueue itself limits the time of execution
    age = seconds_since(
        status_of(seen.workload).get("startTime") or found.get("creationTimestamp"), seen.now
    )
    if age <= allowed + DEADLINE_GRACE_SECONDS:
        return None
    return Verdict(
        "DeadlineExceeded",
        f"{seen.name} has taken {age:.0f} s, expected at most {allowed:.0f} s for all attempts",
        f"raise execution.cluster.{seen.stage}.deadline_seconds, then run again to continue",
        exit_code=31,
    )


def _queued(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    workload = seen.workload
    queue = text(mapping(metadata_of(workload).get("labels")).get(QUEUE))
    if not queue or mapping(mapping(workload).get("spec")).get("suspend") is not True:
        return None
    admission = seen.queue_workload
    if admission is None:
        age = seconds_since(metadata_of(workload).get("creationTimestamp"), seen.now)
        return Verdict(
            "Queued",
            f"{seen.name} is suspended and Kueue has no Workload for it",
            f"create LocalQueue {queue} in the namespace, or correct execution.cluster.queue",
            exit_code=21 if age > CONFIG_GRACE_SECONDS else None,
        )
    evicted = condition(admission, "Evicted") or {}
    if evicted.get("reason") in ("Deactivated", "MaximumExecutionTimeExceeded"):
        overdue = evicted.get("reason") == "MaximumExecutionTimeExceeded"
        return Verdict(
            "DeadlineExceeded" if overdue else "Queued",
            f"Kueue has evicted {seen.name} for good: {text(evicted.get('message'))}",
            "raise the deadline, then run again to continue"
            if overdue
            else "ask the owner of the queue",
            exit_code=31 if overdue else 21,
        )
    refused = condition(admission, "QuotaReserved", "False") or {}
    reason, message = text(refused.get("reason")), text(refused.get("message"))
    age = seconds_since(metadata_of(admission).get("creationTimestamp"), seen.now)
    final = reason in _PERMANENT_QUEUE or age > timeouts.queue_seconds
    return Verdict(
        "Queued",
        f"LocalQueue {queue} has not admitted {seen.name}: {reason or 'no reason yet'} {message}",
        "correct execution.cluster.queue or the shape, or raise timeouts.queue_seconds",
        evidence=(f"Workload {text(metadata_of(admission).get('name'))}: {reason} {message}",),
        exit_code=21 if final else None,
    )


def _not_created(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a Job whose pods are rejected because of quota, PodSecurity or service account."""
    if _live(seen):
        return None
    refusals = [event for event in seen.events if mapping(event).get("reason") == "FailedCreate"]
    if not refusals:
        return None
    message = text(mapping(refusals[-1]).get("message"))
    if "exceeded quota" in message:
        return Verdict(
            "QuotaExceeded",
            f"the quota of the namespace has no room for the pods: {message}",
            "wait until another workload ends, ask for a larger ResourceQuota, or choose a smaller"
            " machine",
            _events(seen),
            23,
        )
    if "violates PodSecurity" in message:
        fix = "use the unchanged templates, or another namespace"
    elif "serviceaccount" in message.replace(" ", "").lower():
        fix = "create that ServiceAccount, or correct execution.cluster.service_account"
    else:
        return Verdict("Provisioning", f"no pod could be created yet: {message}", "", _events(seen))
    cause = f"the API server rejects the pods: {message}"
    return Verdict("ConfigError", cause, fix, _events(seen), 10)


def _waiting_container(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    for pod in _live(seen):
        reason, message = waiting(pod)
        name = text(metadata_of(pod).get("name"))
        age = seconds_since(
            status_of(pod).get("startTime") or metadata_of(pod).get("creationTimestamp"), seen.now
        )
        evidence = (f"pod {name}: {reason} {message}", *_events(seen))
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            said = " ".join((message, *_events(seen))).lower()
            final = (
                reason in ("InvalidImageName", "ErrImageNeverPull")
                or _ABSENT_IMAGE.search(said) is not None
                or age > timeouts.image_pull_seconds
            )
            return Verdict(
                "ImageError",
                f"pod {name} cannot pull its image: {message or reason}",
                "check the digest, and check that the nodes' account or the ServiceAccount's"
                " imagePullSecrets can read the registry",
                evidence,
                22 if final else None,
            )
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Verdict(
                "ConfigError",
                f"pod {name} cannot start its container: {message or reason}",
                "create the missing object, or correct the manifests",
                evidence,
                10 if age > CONFIG_GRACE_SECONDS else None,
            )
    return None


def _mount(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a missing ConfigMap or Secret of a volume, which appears only in an event."""
    for pod in _live(seen):
        if status_of(pod).get("phase") == "Running":
            return None
        age = seconds_since(metadata_of(pod).get("creationTimestamp"), seen.now)
        uid = metadata_of(pod).get("uid")
        for event in map(mapping, seen.events):
            about = mapping(event.get("involvedObject")).get("uid")
            message = text(event.get("message"))
            if event.get("reason") == "FailedMount" and about == uid:
                missing = any(word in message for word in _MISSING)
                return Verdict(
                    "ConfigError" if missing else "Pulling",
                    f"pod {text(metadata_of(pod).get('name'))} waits for a volume: {message}",
                    "create the missing object (`tuneloop run` creates a stage's ConfigMap)",
                    _events(seen),
                    10 if missing and age > CONFIG_GRACE_SECONDS else None,
                )
    return None


def _unscheduled(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    for pod in _live(seen):
        refused = condition(pod, "PodScheduled", "False")
        if refused is None:
            continue
        name, message = text(metadata_of(pod).get("name")), text(refused.get("message"))
        age = seconds_since(metadata_of(pod).get("creationTimestamp"), seen.now)
        reasons = {text(mapping(event).get("reason")) for event in seen.events}
        scale_up = " ".join(
            text(mapping(event).get("message"))
            for event in seen.events
            if mapping(event).get("reason") == "FailedScaleUp"
        )
        if "TriggeredScaleUp" in reasons and not scale_up:
            return Verdict(
                "Provisioning",
                f"pod {name} waits for a node that the autoscaler is creating",
                "choose another shape or zone, try spot, or raise timeouts.provisioning_seconds",
                _events(seen),
                21 if age > timeouts.provisioning_seconds else None,
            )
        final = age > timeouts.unschedulable_seconds
        if "quota" in scale_up.lower():
            fix = "ask the cloud for more quota, or choose another shape or region"
            cause = f"the cloud quota has no room for a node for pod {name}: {scale_up}"
            return Verdict("QuotaExceeded", cause, fix, _events(seen), 23 if final else None)
        if scale_up:
            fix = "try again later, or choose another shape, zone, reservation or spot"
            cause = f"the cloud has no free machine for pod {name}: {scale_up}"
            return Verdict("Stockout", cause, fix, _events(seen), 21 if final else None)
        return Verdict(
            "Unschedulable",
            # The age is included only in the final verdict, because a supervisor prints a cause
            # again whenever its text changes.
            f"no node fits pod {name}{f' after {age:.0f} s' if final else ''}: {message}",
            "add a node pool of this shape, choose another accelerator, or raise"
            " timeouts.unschedulable_seconds",
            _events(seen),
            21 if final else None,
        )
    return None


def _running(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    running = [pod for pod in _live(seen) if status_of(pod).get("phase") == "Running"]
    if not running:
        return None
    if seen.progress_at is not None:
        silent = seconds_since(seen.progress_at.isoformat(), seen.now)
        if silent > timeouts.progress_seconds:
            return Verdict(
                "Stuck",
                f"{seen.name} runs but has reported no progress for {silent:.0f} s",
                f"read its log (`tuneloop logs RUN_ID {seen.stage}`), then run again to continue",
                exit_code=20,
            )
    count = f"{len(running)} of {len(_live(seen))} pods are running"
    return Verdict("Running", f"{seen.name}: {count}{_failures(seen)}")


def _restarting(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect failed pods that the controller is going to replace."""
    if condition(seen.workload, "RestartingJobSet"):
        return Verdict("Restarting", f"{seen.name} is restarting all its pods{_failures(seen)}")
    if _failures(seen) and not _live(seen):
        return Verdict("Restarting", f"{seen.name} will start a new pod{_failures(seen)}")
    return None


Rule = Callable[[Observation, TimeoutSpec], Verdict | None]
RULES: tuple[Rule, ...] = (
    _succeeded,
    _gone,
    _ended,
    _overdue,
    _queued,
    _not_created,
    _waiting_container,
    _mount,
    _unscheduled,
    _running,
    _restarting,
)
"""Evaluated in order: final states, queueing, pod creation and start-up, scheduling, running."""


def _live(seen: Observation) -> list[Object]:
    """Return the pods that have not ended."""
    return [
        pod
        for pod in entries(list(seen.pods))
        if status_of(pod).get("phase") not in ("Failed", "Succeeded")
    ]


def _failures(seen: Observation) -> str:
    found = [failure for pod in entries(list(seen.pods)) if (failure := pod_failure(pod))]
    return f"; last failure: {found[-1]}" if found else ""


def _events(seen: Observation) -> tuple[str, ...]:
    """Return the five newest events as evidence."""
    return tuple(
        f"event {text(event.get('reason'))}: {text(event.get('message'))}"
        for event in entries(list(seen.events))[-5:]
    )
