"""Checks of `execution` itself: places that mean something else in a pod, and waits."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from tuneloop.k8s.checks.offline import Finding
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.run import ExecutionSpec

KUEUE_READY_SECONDS = 1800
"""Default of waitForPodsReady.timeout in Kueue 0.19."""


def check_execution(execution: ExecutionSpec, stages: Sequence[str]) -> list[Finding]:
    """Find URLs that mean something else in a pod, and waits that are longer than Kueue's.

    Args:
        execution: execution settings of the run.
        stages: names of the stages of the run.
    """
    findings, cluster = [], execution.cluster
    scheme, _, _ = execution.artifacts.rpartition("://")
    is_shared = cluster is not None and cluster.shared_artifacts
    if scheme in ("", "file", "local") and not is_shared:
        message = (
            f"{execution.artifacts} is a folder of each pod, which is lost when the pod ends; use a"
            " bucket URL, or set execution.cluster.shared_artifacts if all pods mount this folder"
        )
        findings.append(Finding("execution.artifacts", message))
    if "import" in stages and _is_loopback(execution.store_url):
        message = (
            f"{execution.store_url} is the pod itself when a pod reads it; use the address of the"
            " store's Service"
        )
        findings.append(Finding("execution.store_url", message, "warning"))
    sink = execution.metrics_sink
    if sink is not None and _is_loopback(sink.url):
        message = (
            f"{sink.url} is the pod itself when a pod sends metrics; use the address of the"
            " server's Service"
        )
        findings.append(Finding("execution.metrics_sink.url", message, "warning"))
    for position, webhook in enumerate(execution.notifications):
        if webhook.url_from is not None and webhook.url_from.secret is None:
            message = (
                "names no Secret, so `submit --detach` and a rendered folder call no webhook; set"
                " secret, or supervise with `run` or `wait`"
            )
            place = f"execution.notifications.{position}.url_from"
            findings.append(Finding(place, message, "warning"))
    return findings + (_patience(cluster, stages) if cluster is not None else [])


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _patience(cluster: ClusterSpec, stages: Sequence[str]) -> list[Finding]:
    """Compare waits that a spec states with Kueue's default limit.

    The defaults of a spec are longer than Kueue's on purpose, for queues with a higher limit.
    """
    waits = cluster.timeouts
    is_stated = {"image_pull_seconds", "provisioning_seconds"} & waits.model_fields_set
    is_queued = cluster.queue or any(cluster.placement(stage).queue for stage in stages)
    seconds = waits.provisioning_seconds + waits.image_pull_seconds
    if not is_stated or not is_queued or seconds <= KUEUE_READY_SECONDS:
        return []
    return [Finding("execution.cluster.timeouts", ready_message(seconds, None), "warning")]


def ready_message(wait_seconds: float, kueue_seconds: float | None) -> str:
    """Describe waits for a node and an image that are longer than Kueue waits for ready pods.

    Args:
        wait_seconds: what the spec allows for a node and an image.
        kueue_seconds: waitForPodsReady.timeout of Kueue's configuration; None if it is unknown.
    """
    limit = KUEUE_READY_SECONDS if kueue_seconds is None else kueue_seconds
    default = " by default" if kueue_seconds is None else ""
    return (
        f"provisioning_seconds and image_pull_seconds allow {wait_seconds / 60:g} minutes until"
        f" pods are ready, but Kueue{default} evicts them after {limit / 60:g}; lower them, or"
        " raise waitForPodsReady.timeout in Kueue's configuration"
    )
