"""Checks of the queues of a run: they exist, could admit its stages, and wait long enough."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from tuneloop.errors import PermissionDenied
from tuneloop.k8s.checks.execution import ready_message
from tuneloop.k8s.checks.flight import Object, Preflight, needs_of, pods_of
from tuneloop.k8s.checks.offline import Finding
from tuneloop.k8s.checks.queue_fit import why_unfit
from tuneloop.k8s.names import QUEUE

KUEUE_NAMESPACE, KUEUE_CONFIG = "kueue-system", "kueue-manager-config"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"([0-9.]+)(ms|h|m|s)")
"""One part of a duration as Go writes it, such as `1h30m`."""


def queues(flight: Preflight) -> Iterator[Finding]:
    """Check that the LocalQueues exist and are active."""
    for queue in flight.queues:
        yield from _queue(flight, queue)


def _queue(flight: Preflight, queue: str) -> Iterator[Finding]:
    place = f"LocalQueue {queue}"
    if not flight.cluster.serves("LocalQueue"):
        message = (
            "the cluster does not serve kueue.x-k8s.io/v1beta2; install Kueue or remove `queue`"
            " from execution.cluster and its stages"
        )
        yield Finding(place, message)
        return
    found = flight.cluster.get("LocalQueue", queue)
    if found is None:
        known = [each["metadata"]["name"] for each in flight.cluster.find("LocalQueue")]
        message = (
            f"does not exist, expected one of: {', '.join(known) or 'none exists'}; correct"
            " `queue` of execution.cluster or of its stage"
        )
        yield Finding(place, message)
        return
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active" and condition["status"] == "False":
            message = f"is not active: {condition.get('message')}; ask the owner of the queue"
            yield Finding(place, message)


def fit(flight: Preflight) -> Iterator[Finding]:
    """Check that the ClusterQueue of each stage could admit it if nothing else ran."""
    for workload in flight.workloads:
        queue = workload["metadata"]["labels"].get(QUEUE)
        local = _known(flight, "LocalQueue", queue) if queue else None
        if local is None:
            continue  # `queues` reports it
        name = local["spec"]["clusterQueue"]
        found = flight.cluster.get("ClusterQueue", name)
        if found is None:
            message = f"names ClusterQueue {name}, which does not exist; ask the owner of the queue"
            yield Finding(f"LocalQueue {queue}", message)
            continue
        names = {
            offered["name"]
            for group in found["spec"].get("resourceGroups", [])
            for offered in group["flavors"]
        }
        flavors = {each: flight.cluster.get("ResourceFlavor", each) for each in sorted(names)}
        needs, pod = needs_of(workload), next(pods_of(workload))["spec"]
        requests = {
            name.removeprefix("requests."): amount
            for name, amount in needs.items()
            if name.startswith("requests.")
        }
        reason = why_unfit(requests, pod, found, flavors)
        if reason is not None:
            message = (
                f"can never admit {workload['metadata']['name']}: {reason}; choose another queue or"
                " shape, or ask the owner of the queue"
            )
            yield Finding(f"ClusterQueue {name}", message)


def _known(flight: Preflight, kind: str, name: str) -> Object | None:
    return flight.cluster.get(kind, name) if flight.cluster.serves(kind) else None


def ready_timeout(flight: Preflight) -> Iterator[Finding]:
    """Compare waits with Kueue's waitForPodsReady, where its configuration may be read."""
    if not any(_known(flight, "LocalQueue", queue) for queue in flight.queues):
        return
    try:
        found = flight.cluster.in_namespace(KUEUE_NAMESPACE).get("ConfigMap", KUEUE_CONFIG)
    except PermissionDenied:
        return  # the check of `execution` compares with Kueue's default
    limit = kueue_ready_seconds(found or {})
    waits = flight.spec.timeouts
    seconds = waits.provisioning_seconds + waits.image_pull_seconds
    if limit is not None and seconds > limit:
        message = ready_message(seconds, limit)
        yield Finding("execution.cluster.timeouts", message, "warning")


def kueue_ready_seconds(config_map: Object) -> float | None:
    """Return waitForPodsReady.timeout of Kueue's ConfigMap; None if it is off or not stated."""
    text = config_map.get("data", {}).get("controller_manager_config.yaml", "")
    try:
        value = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    ready = value.get("waitForPodsReady") if isinstance(value, dict) else None
    if not isinstance(ready, dict) or ready.get("enable") is False:
        return None
    parts = _DURATION.findall(str(ready.get("timeout", "")))
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) or None
