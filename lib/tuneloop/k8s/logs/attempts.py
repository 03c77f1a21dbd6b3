"""The attempts of a stage, from the objects of its pods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.k8s.diagnosis.observed import mapping, metadata_of, status_of, text
from tuneloop.k8s.diagnosis.pods import main_container

_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_INDEX = "jobset.sigs.k8s.io/job-index"


@dataclass(frozen=True)
class PodAttempt:
    """One run of the main container of a pod."""

    attempt: Attempt
    pod: dict[str, Any]
    is_previous: bool = False
    """Whether the container has been started again since, so that the kubelet keeps this log as
    the one of the previous container."""

    @property
    def terminated(self) -> dict[str, Any]:
        """How the container ended, as Kubernetes reports it; empty while it runs."""
        state = main_container(self.pod).get("lastState" if self.is_previous else "state")
        return mapping(mapping(state).get("terminated"))

    @property
    def has_ended(self) -> bool:
        """Whether the container writes no more lines."""
        phase = status_of(self.pod).get("phase")
        return self.is_previous or bool(self.terminated) or phase in ("Succeeded", "Failed")

    @property
    def has_started(self) -> bool:
        """Whether the container runs or has run."""
        state = mapping(main_container(self.pod).get("state"))
        return self.is_previous or "running" in state or "terminated" in state


def pod_attempts(pods: list[dict[str, Any]], workload: dict[str, Any]) -> list[PodAttempt]:
    """Return the attempts of pods that a kubelet may have a log of, by rank and then by time.

    Args:
        pods: pods of the workload.
        workload: the Job or JobSet as it was rendered.
    """
    found = []
    for pod in pods:
        restarts = main_container(pod).get("restartCount")
        restart = restarts if isinstance(restarts, int) else 0
        current = PodAttempt(_attempt(pod, restart, workload), pod)
        if restart > 0:
            previous = _attempt(pod, restart - 1, workload)
            found.append(PodAttempt(previous, pod, is_previous=True))
        found.append(current)
    return sorted(found, key=lambda each: each.attempt)


def process_count(workload: dict[str, Any]) -> int:
    """Return the number of pods that run a stage together.

    Args:
        workload: the Job or JobSet as it was rendered.
    """
    if workload.get("kind") != "JobSet":
        return int(workload["spec"].get("completions", 1))
    group = workload["spec"]["replicatedJobs"][0]
    return int(group.get("replicas", 1)) * int(group["template"]["spec"].get("parallelism", 1))


def _attempt(pod: dict[str, Any], restart: int, workload: dict[str, Any]) -> Attempt:
    metadata = metadata_of(pod)
    return Attempt(
        rank=_rank(pod, workload),
        created=_compact(text(metadata.get("creationTimestamp"))),
        pod=text(metadata.get("name")).replace("_", "-"),
        uid=text(metadata.get("uid")).replace("_", "-"),
        restart=restart,
    )


def _rank(pod: dict[str, Any], workload: dict[str, Any]) -> int:
    """Return the number of the pod's process: slice times hosts of a slice, plus host."""
    metadata = metadata_of(pod)
    labels = mapping(metadata.get("annotations")) | mapping(metadata.get("labels"))
    host, in_set = _number(labels.get(_INDEX)), _number(labels.get(_JOB_INDEX))
    if workload.get("kind") != "JobSet":
        return host
    job = workload["spec"]["replicatedJobs"][0]["template"]["spec"]
    return in_set * int(job.get("parallelism", 1)) + host


def _number(value: Any) -> int:
    return int(value) if isinstance(value, str) and value.isdigit() else 0


def _compact(created: str) -> str:
    try:
        return f"{datetime.fromisoformat(created).astimezone(UTC):%Y%m%dT%H%M%SZ}"
    except ValueError:
        return "unknown"
