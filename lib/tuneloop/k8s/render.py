"""A plan as plain Kubernetes objects: for each stage a ConfigMap with its spec and a Job.

One rule: rendering is pure. The same plan, image, templates and table give the same bytes, and
nothing but the objects' place (namespace, accelerator, queue) depends on `execution.cluster`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.errors import (
    EXIT_BUG,
    DataError,
    InputMissing,
    OutOfMemory,
    PermissionDenied,
    SpecError,
    Unavailable,
    UsageError,
)
from tuneloop.k8s.shapes import Accelerators, Shape
from tuneloop.k8s.templates import fill
from tuneloop.specs import ClusterSpec, StagePlacement, StageSpec

PREFIX = "tuneloop.dev"
"""Of our labels and annotations."""
SPEC_FOLDER = "/etc/tuneloop"
WRITABLE = {"tmp": "/tmp", "cache": "/home/tuneloop/.cache"}
"""Volumes for a root file system that is read-only; libtpu writes its lock and logs below /tmp."""

FINAL_EXIT_CODES = sorted(
    {
        1,  # the interpreter died before the stage could map anything
        *(
            error.exit_code
            for error in (
                UsageError,
                DataError,
                InputMissing,
                Unavailable,
                OutOfMemory,
                PermissionDenied,
                SpecError,
            )
        ),
        EXIT_BUG,
        126,  # the command is no program
        127,  # or is not there
        137,  # out of memory, as far as no eviction says otherwise
    }
)
"""Exit codes that another try cannot heal; Transient (75) and signals are retried."""

_DIGEST = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class Template:
    """A parsed template and where it lies, for errors."""

    content: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Templates:
    """One template for each kind of object."""

    job: Template
    config_map: Template


def require_digest(image: str) -> str:
    """Take an image reference that names its content.

    Returns:
        The digest, `sha256:…`: the identity of the code that stages run.

    Raises:
        SpecError: a tag can point elsewhere tomorrow, so it names no result.
    """
    if not _DIGEST.fullmatch(image):
        raise SpecError(
            f"image {image!r}: expected REPOSITORY@sha256:DIGEST; a tag can point elsewhere"
            " tomorrow, ask the registry for the digest"
        )
    return image.split("@", 1)[1]


def object_name(run_name: str, stage: StageSpec) -> str:
    """Name of a stage's objects: `<run name>-<stage>-<8 hex of the fingerprint>`, at most 48."""
    return f"{run_name}-{stage.stage}-{stage.fingerprint[:8]}"


def render_stage(
    run_name: str,
    stage: StageSpec,
    cluster: ClusterSpec,
    *,
    image: str,
    git_commit: str | None,
    templates: Templates,
    accelerators: Accelerators,
) -> list[dict[str, Any]]:
    """Render the objects of one stage, in the order in which they are applied.

    Args:
        run_name: the spec's name, first part of every object's name.
        stage: the stage spec; it travels in the ConfigMap.
        cluster: namespace, queue and the stage's machines.
        image: by digest.
        git_commit: stamped into annotations; None outside a repository.
        templates: parsed templates.
        accelerators: the table of shapes.

    Raises:
        SpecError: the shape is impossible, or has several hosts.
    """
    placement = cluster.placement(stage.stage)
    shape = accelerators.shape(placement.accelerator_request())
    if shape.is_multi_host:
        raise SpecError(
            f"execution.cluster.{stage.stage}.accelerator: {shape.key} has"
            f" {shape.hosts * shape.slices} hosts, expected one; training over several hosts is not"
            " built yet, choose a single-host shape"
        )
    name = object_name(run_name, stage)
    labels = _labels(run_name, stage)
    annotations = _annotations(stage, image, git_commit)
    common = {"name": name, "namespace": cluster.namespace, "annotations": annotations}
    config_map = fill(
        templates.config_map.content,
        {**common, "labels": labels, "spec_json": stage.model_dump_json(indent=1) + "\n"},
        templates.config_map.place,
    )
    values = {
        **common,
        "labels": labels | _queue_labels(cluster),
        "pod_labels": labels,
        "pod_annotations": shape.pod_annotations | annotations,
        "command": ["python", "-m", "jobs", stage.stage, "--spec", f"{SPEC_FOLDER}/spec.json"],
        "deadline_seconds": placement.deadline_seconds,
        "ttl_seconds": cluster.ttl_days * 86_400,
        "final_exit_codes": FINAL_EXIT_CODES,
        "grace_seconds": shape.termination_grace_period_seconds,
        "service_account": cluster.service_account,
        "node_selector": shape.node_selector,
        "tolerations": shape.tolerations,
        "image": image,
        "env": _env(shape, image),
        "resources": _resources(placement, shape),
        "volume_mounts": _volume_mounts(shape),
        "volumes": _volumes(name, shape),
    }
    return [config_map, fill(templates.job.content, values, templates.job.place)]


def _labels(run_name: str, stage: StageSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "tuneloop",
        "app.kubernetes.io/component": stage.stage,
        f"{PREFIX}/name": run_name,
        f"{PREFIX}/run": stage.run_id,
        f"{PREFIX}/stage": stage.stage,
        f"{PREFIX}/fingerprint": stage.fingerprint[:16],
    }


def _queue_labels(cluster: ClusterSpec) -> dict[str, str]:
    """Kueue's labels, if the spec names a queue; its webhook suspends the Job, we never do."""
    named = {
        "kueue.x-k8s.io/queue-name": cluster.queue,
        "kueue.x-k8s.io/priority-class": cluster.priority_class,
    }
    return {key: value for key, value in named.items() if value is not None}


def _annotations(stage: StageSpec, image: str, git_commit: str | None) -> dict[str, str]:
    return {
        f"{PREFIX}/fingerprint": stage.fingerprint,
        f"{PREFIX}/image": image,
        f"{PREFIX}/git-commit": git_commit or "unknown",
    }


def _env(shape: Shape, image: str) -> list[dict[str, str]]:
    values = {
        **shape.env,
        "HOME": "/home/tuneloop",
        "TUNELOOP_IMAGE_DIGEST": image.split("@", 1)[1],
    }
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _resources(placement: StagePlacement, shape: Shape) -> dict[str, str]:
    return {
        "cpu": placement.cpu,
        "memory": placement.memory,
        "ephemeral-storage": placement.ephemeral_storage,
        **shape.resources,
    }


def _volume_mounts(shape: Shape) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        *({"name": name, "mountPath": path} for name, path in WRITABLE.items()),
    ]
    if shape.dev_shm_size is not None:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return mounts


def _volumes(name: str, shape: Shape) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "spec", "configMap": {"name": name}},
        *({"name": volume, "emptyDir": {}} for volume in WRITABLE),
    ]
    if shape.dev_shm_size is not None:
        memory: Mapping[str, str] = {"medium": "Memory", "sizeLimit": shape.dev_shm_size}
        volumes.append({"name": "shm", "emptyDir": dict(memory)})
    return volumes


def file_name(position: int, stage: StageSpec) -> str:
    """Name of a stage's file: `kubectl apply -f DIR` takes them in the order of their names."""
    return f"{position:02d}-{stage.stage}.yaml"
