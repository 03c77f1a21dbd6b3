"""The pod of a workload: environment, volumes, resources around one command.

A pod can write to its named volumes only. Its argv and the common part of its environment come
from `tuneloop.stages.command`, as on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.k8s.accelerators.shapes import Shape
from tuneloop.k8s.names import REPLICATED_JOB
from tuneloop.k8s.rendering.templates import Template, fill
from tuneloop.stages.command import CPU_ENV, stage_env

HOME = "/home/tuneloop"
CACHE = f"{HOME}/.cache"
SPEC_FOLDER = "/etc/tuneloop"
SECRET_FOLDER = "/etc/tuneloop-credentials"
"""Where the files of a spec's `credentials_secret` lie."""
CREDENTIALS_ENV = "TUNELOOP_SERVICE_ACCOUNT_FOLDER"
CREDENTIALS_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the kubelet puts the token of a pod that has one."""
TERMINATION_LOG = "/dev/termination-log"
WRITABLE = {"tmp": "/tmp", "cache": CACHE}
"""Volumes for a root file system that is read-only; libtpu writes its lock and logs below /tmp."""
COORDINATOR_PORT = 8476
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class Pod:
    """What one pod runs and what it needs; the template says the rest."""

    command: list[str]
    env: list[dict[str, Any]]
    resources: dict[str, str]
    """Requests and limits alike."""
    service_account: str
    labels: dict[str, str]
    annotations: dict[str, str]
    shape: Shape
    config_map: str | None = None
    """Mounted at SPEC_FOLDER; None: no such volume."""
    api_token: bool = False
    """Whether it may talk to the API server: the submitter alone."""
    attempt_deadline_seconds: int | None = None
    credentials_secret: str | None = None
    """Secret for the object store: its keys become variables, and files in SECRET_FOLDER."""
    priority_class: str | None = None


def render_pod(pod: Pod, image: str, template: Template) -> dict[str, Any]:
    """Fill the pod template."""
    shape = pod.shape
    values = {
        "labels": pod.labels,
        "annotations": shape.pod_annotations | pod.annotations,
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
    """The environment of a stage's container, in order of name."""
    values = {
        **stage_env(CACHE, TERMINATION_LOG),
        **(CPU_ENV if shape.kind == "cpu" else {}),
        **shape.env,
        **(extra or {}),
        "HOME": HOME,
        "TUNELOOP_IMAGE_DIGEST": image.rsplit("@", 1)[-1],
    }
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def gang_env(name: str, shape: Shape) -> list[dict[str, Any]]:
    """How the processes of a gang find each other; empty for a lone pod.

    TPU processes get peers and index from GKE's webhook (TPU_WORKER_ID, MEGASCALE_*); others are
    told here, because JAX's own detection would ask the API server and count one Job's pods only.
    """
    if not shape.is_multi_host:
        return []
    env: list[dict[str, Any]] = [
        {"name": "TUNELOOP_PROCESSES", "value": str(shape.hosts * shape.slices)}
    ]
    if shape.kind == "tpu":
        return env
    # <JobSet>-<job>-<job index>-<pod index>.<subdomain>, and the subdomain is the JobSet's name.
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
    volumes += [{"name": name, "emptyDir": {}} for name in WRITABLE]
    if pod.shape.dev_shm_size is not None:
        memory = {"medium": "Memory", "sizeLimit": pod.shape.dev_shm_size}
        volumes.append({"name": "shm", "emptyDir": memory})
    return volumes
