"""Explain why the pods of a stage do not run yet: not created, no node, no image, no volume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.verdict import State, Verdict
from tuneloop.k8s.api import Object
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    describe_event,
    entries,
    events_about,
    mapping,
    metadata_of,
    name_of,
    newest_events,
    seconds_since,
    status_of,
    text,
)
from tuneloop.k8s.diagnosis.pods import (
    failures_of,
    is_being_deleted,
    last_failure,
    live_pods,
    node_of,
    running_pods,
    waiting,
)
from tuneloop.k8s.events import event_time
from tuneloop.specs.cluster import TimeoutSpec

CONFIG_GRACE_SECONDS = 60.0
"""Time to allow for a ConfigMap or Secret created after its pod, for the pods of an earlier attempt
to leave a quota, and for Kueue to see a Job."""

_ABSENT_IMAGE = re.compile(
    r"(?<![\w.:/@-])40[134](?![\w.-])"  # a status code, not part of a digest or of a node's name
    r"|unauthorized|forbidden|denied|not found|manifest unknown|does not exist|invalid reference"
)
"""Parts of image pull errors that a retry cannot fix."""
_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONTAINER_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_MISSING = re.compile(
    r"(?P<kind>configmap|secret|persistentvolumeclaim) \"(?P<name>[^\"]+)\" not found", re.I
)
_MISSING_WORDS = ("not found", "couldn't find key", "references non-existent")
_KINDS = {
    "configmap": "ConfigMap",
    "secret": "Secret",
    "persistentvolumeclaim": "PersistentVolumeClaim",
}
_PREEMPTION_NOTE = re.compile(r" (no new claims to deallocate|preemption: ).*")
"""End of the scheduler's message: why it would not help to evict other pods."""
_POD_NAME = re.compile(r"pods? \"[^\"]+\" is", re.I)


@dataclass(frozen=True)
class _Refusal:
    """Why the API server refuses to create a pod."""

    pattern: re.Pattern[str]
    state: State
    fix: str
    """May contain the groups of the pattern."""
    exit_code: int = 10


_REFUSALS = (
    _Refusal(
        re.compile(r"exceeded quota: (?P<name>[\w.-]+)"),
        "QuotaExceeded",
        "wait until another workload ends, ask for a larger ResourceQuota {name}, or choose a"
        " smaller machine",
        23,
    ),
    _Refusal(
        re.compile(r"violates PodSecurity"),
        "ConfigError",
        "use the unchanged templates, or another namespace",
    ),
    _Refusal(
        re.compile(r"service ?account \"(?P<name>[^\"]+)\" not found", re.I),
        "ConfigError",
        "create ServiceAccount {name}, or correct execution.cluster.service_account",
    ),
    _Refusal(
        # JobSet writes the priority of a pod into a label, and a label cannot begin with a minus.
        re.compile(r"metadata\.labels: Invalid value: \"-\d+\""),
        "ConfigError",
        "give the PriorityClass of execution.cluster.pod_priority_class a value of 0 or more,"
        " because JobSet writes the value into a label",
    ),
    _Refusal(
        re.compile(r"no PriorityClass with name (?P<name>\S+) was found"),
        "ConfigError",
        "create PriorityClass {name}, or correct execution.cluster.pod_priority_class",
    ),
    _Refusal(
        re.compile(r" is invalid: | is forbidden: |admission webhook .* denied the request"),
        "ConfigError",
        "change the spec or the cluster's policy as the message says",
    ),
)
"""The first pattern that matches decides."""


def not_created(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect pods that the API server refuses to create.

    The refusal is an event of the Job that should have created the pod. For a JobSet that is a
    child Job; the JobSet itself shows nothing.
    """
    missing = seen.expected_pods() - len(live_pods(seen))
    if missing <= 0:
        return None
    for job in (mapping(seen.workload), *entries(list(seen.child_jobs))):
        uid = metadata_of(job).get("uid")
        refusals = events_about(seen, "FailedCreate", uid)
        created = events_about(seen, "SuccessfulCreate", uid)
        # Events stay for an hour after the cause is gone.
        if refusals and not (created and event_time(created[-1]) > event_time(refusals[-1])):
            return _refused(seen, job, refusals, timeouts)
    return None


def _refused(
    seen: Observation, job: Object, refusals: Sequence[Object], timeouts: TimeoutSpec
) -> Verdict:
    message = text(refusals[-1].get("message")).removeprefix("Error creating: ")
    message = _POD_NAME.sub("the pod is", message)  # each attempt has another name
    about = f"{text(job.get('kind')) or 'Job'} {name_of(job) or seen.name}"
    evidence = tuple(describe_event(event) for event in refusals[-5:])
    live, expected = len(live_pods(seen)), seen.expected_pods()
    others = ""
    if live:
        others = f"; {live} of {expected} pods exist, hold their machines and wait for the others"
    age = (seen.now - event_time(refusals[0])).total_seconds()
    for refusal in _REFUSALS:
        found = refusal.pattern.search(message)
        if found is None:
            continue
        is_final = True
        if refusal.state == "QuotaExceeded":
            # The quota is released a moment after the pods of an earlier attempt have ended.
            is_first = not seen.restarts and not failures_of(seen.pods)
            is_final = is_first or age > CONFIG_GRACE_SECONDS
        return Verdict(
            refusal.state,
            f"the API server refuses the pods of {about}: {message}{others}",
            refusal.fix.format(**found.groupdict()),
            evidence,
            refusal.exit_code if is_final else None,
            about,
        )
    final = age > timeouts.unschedulable_seconds
    return Verdict(
        "Provisioning",
        f"no pod of {about} could be created yet: {message}{others}",
        "ask the administrator of the cluster, or raise timeouts.unschedulable_seconds",
        evidence,
        21 if final else None,
        about,
    )


def waiting_container(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect an image that cannot be pulled and a container that cannot be created."""
    for pod in live_pods(seen):
        if is_being_deleted(pod):
            continue
        reason, message = waiting(pod)
        if reason not in (*_IMAGE_REASONS, *_CONTAINER_REASONS):
            continue
        about = f"Pod {name_of(pod)}"
        node = f" on node {node_of(pod)}" if node_of(pod) else ""
        age = seconds_since(
            status_of(pod).get("startTime") or metadata_of(pod).get("creationTimestamp"), seen.now
        )
        evidence = (f"{about}: {reason} {message}", *newest_events(seen))
        if reason in _CONTAINER_REASONS:
            return Verdict(
                "ConfigError",
                f"pod {name_of(pod)}{node} cannot start its container: {message or reason}",
                _missing_fix(seen, message),
                evidence,
                10 if age > CONFIG_GRACE_SECONDS else None,
                about,
            )
        said = " ".join((message, *newest_events(seen))).lower()
        final = (
            reason in ("InvalidImageName", "ErrImageNeverPull")
            or _ABSENT_IMAGE.search(said) is not None
            or age > timeouts.image_pull_seconds
        )
        return Verdict(
            "ImageError",
            f"pod {name_of(pod)}{node} cannot pull its image: {message or reason}{_others(seen)}",
            "check the digest, and check that the nodes' account or the ServiceAccount's"
            " imagePullSecrets can read the registry",
            evidence,
            22 if final else None,
            about,
        )
    return None


def mount(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a missing ConfigMap or Secret of a volume, which appears only in an event."""
    for pod in live_pods(seen):
        if status_of(pod).get("phase") == "Running" or is_being_deleted(pod):
            continue
        age = seconds_since(metadata_of(pod).get("creationTimestamp"), seen.now)
        failed = events_about(seen, "FailedMount", metadata_of(pod).get("uid"))
        if failed:
            message = text(failed[-1].get("message"))
            missing = any(word in message for word in _MISSING_WORDS)
            return Verdict(
                "ConfigError" if missing else "Pulling",
                f"pod {name_of(pod)} waits for a volume: {message}",
                _missing_fix(seen, message),
                newest_events(seen),
                10 if missing and age > CONFIG_GRACE_SECONDS else None,
                f"Pod {name_of(pod)}",
            )
    return None


def _missing_fix(seen: Observation, message: str) -> str:
    """Return what to create, if the message names it."""
    found = _MISSING.search(message)
    if found is None:
        return "create the missing object, or correct the manifests"
    kind, name = _KINDS[found["kind"].lower()], found["name"]
    if kind == "ConfigMap" and name == seen.name:
        return f"apply {kind} {name} again: `tuneloop run` and `tuneloop submit` do so"
    where = f" in namespace {seen.namespace}" if seen.namespace else ""
    return f"create {kind} {name}{where}"


def unscheduled(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect pods without a node: no such node, no machine in the cloud, no quota of the cloud."""
    refused = [
        (pod, found)
        for pod in live_pods(seen)
        if not is_being_deleted(pod)
        and (found := condition(pod, "PodScheduled", "False")) is not None
    ]
    if not refused:
        return None
    pod, found = refused[0]
    name, message = name_of(pod), _PREEMPTION_NOTE.sub("", text(found.get("message")))
    about, evidence = f"Pod {name}", newest_events(seen)
    age = seconds_since(metadata_of(pod).get("creationTimestamp"), seen.now)
    reasons = {text(event.get("reason")) for event in entries(list(seen.events))}
    scale_up = " ".join(
        text(event.get("message"))
        for event in entries(list(seen.events))
        if event.get("reason") == "FailedScaleUp"
    )
    if "TriggeredScaleUp" in reasons and not scale_up:
        return Verdict(
            "Provisioning",
            f"pod {name} waits for a node that the autoscaler is creating{_others(seen)}",
            "choose another shape or zone, try spot, or raise timeouts.provisioning_seconds",
            evidence,
            21 if age > timeouts.provisioning_seconds else None,
            about,
        )
    final = age > timeouts.unschedulable_seconds
    if "quota" in scale_up.lower():
        fix = "ask the cloud for more quota, or choose another shape or region"
        cause = f"the cloud quota has no room for a node for pod {name}: {scale_up}"
        return Verdict("QuotaExceeded", cause, fix, evidence, 23 if final else None, about)
    if scale_up:
        fix = "try again later, or choose another shape, zone, reservation or spot"
        cause = f"the cloud has no free machine for pod {name}: {scale_up}"
        return Verdict("Stockout", cause, fix, evidence, 21 if final else None, about)
    # The age is included only in the final verdict, because a supervisor prints a cause again
    # whenever its text changes.
    after = f" after {age:.0f} s" if final else ""
    which = f"{len(refused)} of {seen.expected_pods()} pods" if seen.expected_pods() > 1 else ""
    return Verdict(
        "Unschedulable",
        f"no node fits {f'{which}, such as ' if which else ''}pod {name}{after}: {message}"
        f"{_flavors(seen)}{_others(seen)}{last_failure(seen)}",
        _node_fix(seen, pod, message),
        evidence,
        21 if final else None,
        about,
    )


def _node_fix(seen: Observation, pod: Object, message: str) -> str:
    """Return what makes a node fit, by the scheduler's reasons."""
    later = "or raise timeouts.unschedulable_seconds"
    if _flavors(seen):
        return (
            "give CPU stages a queue with flavors of CPU nodes only (execution.cluster.queue),"
            f" add a node of that flavor, {later}"
        )
    others = ("Insufficient", "didn't match")
    if "untolerated taint" in message and not any(each in message for each in others):
        return (
            "remove the taint from the nodes, wait until their maintenance is over, choose another"
            f" accelerator, {later}"
        )
    wanted = mapping(mapping(pod.get("spec")).get("nodeSelector"))
    labels = ", ".join(f"{key}={value}" for key, value in sorted(wanted.items()))
    which = f"with the labels {labels}" if labels else "of this shape"
    return f"add a node pool {which}, choose another accelerator, {later}"


def _flavors(seen: Observation) -> str:
    """Return the flavors that Kueue has chosen; its node labels are in the pod then."""
    admission = mapping(status_of(seen.queue_workload).get("admission"))
    found = {
        text(flavor)
        for assigned in entries(admission.get("podSetAssignments"))
        for flavor in mapping(assigned.get("flavors")).values()
    }
    return f"; Kueue has admitted it to flavor {', '.join(sorted(found))}" if found else ""


def _others(seen: Observation) -> str:
    """Return what the running pods of a gang do meanwhile."""
    running = len(running_pods(seen)) if seen.is_gang else 0
    if not running:
        return ""
    return f"; {running} of {seen.expected_pods()} pods run and wait for the others"


def pulling(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect pods that are on a node and do not run yet."""
    started = [pod for pod in live_pods(seen) if not is_being_deleted(pod) and node_of(pod)]
    for pod in started:
        if status_of(pod).get("phase") == "Running":
            continue
        uid = metadata_of(pod).get("uid")
        is_pulling = events_about(seen, "Pulling", uid) and not events_about(seen, "Pulled", uid)
        does = "is pulling its image" if is_pulling else "is starting"
        return Verdict(
            "Pulling",
            f"pod {name_of(pod)} {does} on node {node_of(pod)}{_others(seen)}{last_failure(seen)}",
            evidence=newest_events(seen),
            about=f"Pod {name_of(pod)}",
        )
    return None
