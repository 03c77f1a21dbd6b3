"""What objects are called and marked with: names within the API server's budgets, labels, image.

One rule: a name holds the fingerprint, so another spec is another object and nothing immutable is
ever patched.
"""

from __future__ import annotations

import hashlib
import re

from tuneloop.errors import SpecError
from tuneloop.k8s.accelerators.shapes import Shape
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.stages import StageSpec

PREFIX = "tuneloop.dev"
"""Of our labels and annotations."""
FINGERPRINT = f"{PREFIX}/fingerprint"
RUN = f"{PREFIX}/run"
STAGE = f"{PREFIX}/stage"
DEADLINE = f"{PREFIX}/deadline-seconds"
"""Annotation: seconds from creation to the end of all attempts; JobSets have no such field."""
ALLOW_TAG = f"{PREFIX}/allow-tag"

QUEUE = "kueue.x-k8s.io/queue-name"
COMPONENT = "app.kubernetes.io/component"
SUBMITTER = "submitter"

REPLICATED_JOB = "w"
"""Name of a JobSet's Jobs; short, because host names hold it."""
LABEL_CHARACTERS = 63
_JOB_NAME_CHARACTERS = 50
"""Leaves room for the index of a pod's host name and for the five characters of its suffix."""
_SUFFIX_CHARACTERS = len("-xxxxx") + len("---")

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[^@\s:][^@\s]*")


def image_identity(image: str, *, allow_tag: bool = False) -> str:
    """Tell what names the code in an image.

    Returns:
        The digest, `sha256:…`; with `allow_tag`, for a reference without one, the reference.

    Raises:
        SpecError: a tag can point elsewhere tomorrow, so it names no result.
    """
    if _DIGEST.fullmatch(image):
        return image.split("@", 1)[1]
    if allow_tag and _TAG.fullmatch(image):
        return image
    raise SpecError(
        f"image {image!r}: expected REPOSITORY@sha256:DIGEST, because a tag can point elsewhere"
        " tomorrow; ask the registry for the digest, or pass --allow-tag and lose the guarantee"
    )


def object_name(run_name: str, stage: StageSpec, shape: Shape | None = None) -> str:
    """Name a stage's objects: `<run name>-<stage>-<8 hex of the fingerprint>`.

    A run name that is too long for the host names of a gang's pods,
    `<name>-<job>-<job index>-<pod index>-xxxxx` within 63 characters, is cut and marked by a hash.
    """
    rest = f"-{stage.stage}-{stage.fingerprint[:8]}"
    room = _JOB_NAME_CHARACTERS
    if shape is not None and shape.is_multi_host:
        digits = len(str(shape.slices - 1)) + len(str(shape.hosts - 1))
        room = LABEL_CHARACTERS - _SUFFIX_CHARACTERS - len(REPLICATED_JOB) - digits
    room -= len(rest)
    if len(run_name) > room:
        mark = hashlib.sha256(run_name.encode()).hexdigest()[:4]
        run_name = f"{run_name[: room - 5].rstrip('-')}-{mark}"
    return run_name + rest


def submitter_name(run_id: str) -> str:
    """Name of the Job that holds a run's sequence in the cluster."""
    return f"{run_id}-submit"


def stage_labels(run_name: str, stage: StageSpec) -> dict[str, str]:
    """Labels of a stage's objects and pods."""
    return {
        **run_labels(run_name, stage.run_id, stage.stage),
        STAGE: stage.stage,
        FINGERPRINT: stage.fingerprint[:16],
    }


def run_labels(run_name: str, run_id: str, component: str) -> dict[str, str]:
    """Labels that everything of a run carries."""
    return {
        "app.kubernetes.io/name": "tuneloop",
        COMPONENT: component,
        f"{PREFIX}/name": run_name,
        RUN: run_id,
    }


def queue_labels(cluster: ClusterSpec, deadline_seconds: int) -> dict[str, str]:
    """Kueue's labels, if the spec names a queue; its webhook suspends the Job, we never do."""
    if cluster.queue is None:
        return {}
    labels = {
        QUEUE: cluster.queue,
        "kueue.x-k8s.io/max-exec-time-seconds": str(deadline_seconds),
    }
    if cluster.priority_class is not None:
        labels["kueue.x-k8s.io/priority-class"] = cluster.priority_class
    return labels


def object_annotations(
    fingerprint: str, image: str, git_commit: str | None, deadline_seconds: int
) -> dict[str, str]:
    """Where an object comes from, in full."""
    found = {
        FINGERPRINT: fingerprint,
        f"{PREFIX}/image": image,
        f"{PREFIX}/git-commit": git_commit or "unknown",
        DEADLINE: str(deadline_seconds),
    }
    return found if _DIGEST.fullmatch(image) else {**found, ALLOW_TAG: "true"}
