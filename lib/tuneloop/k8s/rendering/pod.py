"""Render the pod of a workload: one command with its environment, volumes and resources.

A pod can write only to its volumes. Its command and the common part of its environment come from
`tuneloop.stages.lifecycle.command`, as they do on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.k8s import names
from tuneloop.k8s.accelerators.shapes import Shape
from tuneloop.k8s.names import REPLICATED_JOB
from tuneloop.k8s.rendering.templates import Template, fill
from tuneloop.settings.environment import variable
from tuneloop.stages.lifecycle.command import CPU_ENV, stage_env

HOME = "/home/tuneloop"
USER = 10001
"""User and group of restricted pods; the images create them."""
CACHE = f"{HOME}/.cache"
COMPILE_CACHE = "/var/cache/tuneloop"
"""Folder in the container of a spec's `compile_cache_claim`."""
SPEC_FOLDER = "/etc/tuneloop"
SECRET_FOLDER = "/etc/tuneloop-credentials"
"""Folder in the container for the files of a spec's `credentials_secret`."""
CREDENTIALS_ENV = variable("service_account_folder")
CREDENTIALS_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Folder in which the kubelet stores the API token of a pod."""
TERMINATION_LOG = "/dev/termination-log"
WRITABLE = {"tmp": "/tmp", "cache": CACHE}
"""Writable volumes, as the root file system is read-only; libtpu writes lock and logs to /tmp."""
COORDINATOR_PORT = 8476
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class Pod:
    """The settings of one pod that the pod template does not contain."""

    command: list[str]
    env: list[dict[str, Any]]
    resources: dict[str, str]
    """CPU, memory and storage; used both as requests and as limits."""
    service_account: str
    labels: dict[str, str]
    annotations: dict[str, str]
    shape: Shape
    config_map: str | None = None
    """Name of the ConfigMap to mount at SPEC_FOLDER; None means no such volume."""
    api_token: bool = False
    """Whether the pod gets a token for the API server; true only for the submitter."""
    attempt_deadline_seconds: int | None = None
    credentials_secret: str | None = None
    """Secret for the object store; its keys become variables and files in SECRET_FOLDER."""
    priority_class: str | None = None
    compile_cache_claim: str | None = None
    """PersistentVolumeClaim to mount at COMPILE_CACHE; None means no such volume."""


def render_pod(pod: Pod, image: str, template: Template) -> dict[str, Any]:
    """Fill the pod template."""
    shape = pod.shape
    restricted = shape.pod_security == "restricted"
    marks = {} if restricted else {names.POD_SECURITY: shape.pod_security}
    user = USER if restricted else 0
    users = {
        "non_root": restricted or None,
        "user": user,
        # Root needs no group to read the volumes.
        "volume_group": user or None,
    }
    values = {
        "labels": pod.labels,
        "annotations": shape.pod_annotations | pod.annotations | marks,
        **users,
        "attempt_deadline_seconds": pod.attempt_deadline_seconds,
        "grace_seconds": shape.termination_grace_period_seconds,
        "service_account": pod.service_account,
        "api_token": pod.api_token,
        "priority_class": pod.priority_class,
        "node_selector": shape.node_selector,
        "tolerations": shape.tolerations,
        "image": image,
        "command": pod.command,
        "env_from": _env_from(pod),
        "env": pod.env,
        "resources": {**pod.resources, **shape.resources},
        "volume_mounts": _volume_mounts(pod),
        "volumes": _volumes(pod),
    }
    return fill(template, values)


def container_env(shape: Shape, image: str, extra: Mapping[str, str] | None = None) -> list[Any]:
    """Return the environment of a stage's container, sorted by name."""
    peak = shape.device_peak_tflops
    values = {
        **stage_env(CACHE, TERMINATION_LOG),
        **({} if peak is None else {variable("device_peak_tflops"): f"{peak:g}"}),
        **(CPU_ENV if shape.kind == "cpu" else {}),
        **shape.env,
        **(extra or {}),
        "HOME": HOME,
        "TUNELOOP_IMAGE_DIGEST": image.rsplit("@", 1)[-1],
    }
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def gang_env(name: str, shape: Shape) -> list[dict[str, Any]]:
    """Return the variables with which distributed processes find each other; empty for one pod.

    TPU processes get their peers and index from GKE's webhook (TPU_WORKER_ID, MEGASCALE_*). Other
    processes need these variables, because JAX's own detection would call the API server and count
    only the pods of one Job.
    """
    if not shape.is_multi_host:
        return []
    env: list[dict[str, Any]] = [
        {"name": "TUNELOOP_PROCESSES", "value": str(shape.hosts * shape.slices)}
    ]
    if shape.kind == "tpu":
        return env
    # A pod's address is <JobSet>-<job>-<job index>-<pod index>.<subdomain>; the subdomain is the
    # name of the JobSet.
    coordinator = f"{name}-{REPLICATED_JOB}-0-0.{name}:{COORDINATOR_PORT}"
    return [
        {"name": "TUNELOOP_COORDINATOR", "value": coordinator},
        {"name": "TUNELOOP_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
        *env,
    ]


def _env_from(pod: Pod) -> list[dict[str, Any]] | None:
    if pod.credentials_secret is None:
        return None
    return [{"secretRef": {"name": pod.credentials_secret}}]


def _volume_mounts(pod: Pod) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    if pod.config_map is not None:
        mounts.append({"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True})
    if pod.credentials_secret is not None:
        mounts.append({"name": "credentials", "mountPath": SECRET_FOLDER, "readOnly": True})
    if pod.compile_cache_claim is not None:
        mounts.append({"name": "compile-cache", "mountPath": COMPILE_CACHE})
    mounts += [{"name": name, "mountPath": path} for name, path in WRITABLE.items()]
    if pod.shape.dev_shm_size is not None:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return mounts


def _volumes(pod: Pod) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    if pod.config_map is not None:
        volumes.append({"name": "spec", "configMap": {"name": pod.config_map}})
    if pod.credentials_secret is not None:
        secret = {"secretName": pod.credentials_secret}
        volumes.append({"name": "credentials", "secret": secret})
    if pod.compile_cache_claim is not None:
        claim = {"claimName": pod.compile_cache_claim}
        volumes.append({"name": "compile-cache", "persistentVolumeClaim": claim})
    volumes += [{"name": name, "emptyDir": {}} for name in WRITABLE]
    if pod.shape.dev_shm_size is not None:
        memory = {"medium": "Memory", "sizeLimit": pod.shape.dev_shm_size}
        volumes.append({"name": "shm", "emptyDir": memory})
    return volumes
