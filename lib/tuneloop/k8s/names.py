"""Names, labels and annotations of Kubernetes objects, and the identity of an image.

An object's name contains the fingerprint of its stage. A changed spec therefore creates a new
object, and immutable fields are never patched. Names stay within the length limits of the API
server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from tuneloop.errors import SpecError
from tuneloop.k8s.accelerators.shapes import Shape
from tuneloop.specs.cluster import ClusterSpec, StagePlacement
from tuneloop.specs.stages import StageSpec

PREFIX = "tuneloop.dev"
"""Prefix of tuneloop's own labels and annotations."""
FINGERPRINT = f"{PREFIX}/fingerprint"
RUN = f"{PREFIX}/run"
STAGE = f"{PREFIX}/stage"
DEADLINE = f"{PREFIX}/deadline-seconds"
"""Annotation: seconds from creation to the end of all attempts; JobSets have no field for it."""
ALLOW_TAG = f"{PREFIX}/allow-tag"
POD_SECURITY = f"{PREFIX}/pod-security"
"""Annotation of pods that satisfy only PodSecurity `baseline`; all other pods are restricted."""
SUBMISSION = f"{PREFIX}/submission"
"""Annotation of the ConfigMap of a stage: digest of the submission that it was created from."""
START = f"{PREFIX}/start"
"""Annotation of a workload; BY_HAND means that it is suspended until a person starts it."""
BY_HAND = "by-hand"

QUEUE = "kueue.x-k8s.io/queue-name"
VERSION = "app.kubernetes.io/version"
COMPONENT = "app.kubernetes.io/component"
SUBMITTER = "submitter"

REPLICATED_JOB = "w"
"""Name of the replicated Job of a JobSet; short, because host names contain it."""
LABEL_CHARACTERS = 63
_JOB_NAME_CHARACTERS = 50
"""Leaves room for the index and the five-character suffix in a pod's host name."""
_SUFFIX_CHARACTERS = len("-xxxxx") + len("---")

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[^@\s:][^@\s]*")


def image_identity(image: str, *, allow_tag: bool = False) -> str:
    """Return the part of an image reference that identifies its code.

    Returns:
        The digest, `sha256:…`. With `allow_tag`, a reference without a digest is returned as it is.

    Raises:
        SpecError: the reference has no digest. A tag can point to another image later, so it does
            not identify a result.
    """
    if _DIGEST.fullmatch(image):
        return image.split("@", 1)[1]
    if allow_tag and _TAG.fullmatch(image):
        return image
    raise SpecError(
        f"image {image!r}: expected REPOSITORY@sha256:DIGEST, because a tag can point to another"
        " image later; look up the digest in the registry, or pass --allow-tag and give up this"
        " guarantee"
    )


def object_name(run_name: str, stage: StageSpec, shape: Shape | None = None) -> str:
    """Build the name of a stage's objects: `<run name>-<stage>-<8 hex digits of the fingerprint>`.

    Host names may have 63 characters. The host names of a JobSet's pods are
    `<name>-<job>-<job index>-<pod index>-xxxxx`. A run name that is too long for them is cut and
    gets a hash of the full name appended.
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
    """Return the name of the submitter Job, which runs a run's sequence in the cluster."""
    return f"{run_id}-submit"


def stage_labels(run_name: str, stage: StageSpec) -> dict[str, str]:
    """Return the labels of a stage's objects and pods."""
    return {
        **run_labels(run_name, stage.run_id, stage.stage),
        STAGE: stage.stage,
        FINGERPRINT: stage.fingerprint[:16],
    }


def run_labels(run_name: str, run_id: str, component: str) -> dict[str, str]:
    """Return the labels of all objects of a run."""
    return {
        "app.kubernetes.io/name": "tuneloop",
        COMPONENT: component,
        f"{PREFIX}/name": run_name,
        RUN: run_id,
    }


def object_labels(labels: Mapping[str, str], instance: str, version: str | None) -> dict[str, str]:
    """Add the recommended labels of Kubernetes to those of an object.

    Pods do not get them: nothing selects pods by them, and the version would change every pod.

    Args:
        labels: other labels of the object.
        instance: id of the run, or name of what all runs share.
        version: version of tuneloop that rendered the object; None if it is unknown.
    """
    found = {
        **labels,
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/part-of": "tuneloop",
        "app.kubernetes.io/managed-by": "tuneloop",
    }
    # A local version such as 0.1.0+dirty has a character that labels do not allow.
    return found if version is None else {**found, VERSION: version.replace("+", "_")}


def queue_labels(cluster: ClusterSpec, placement: StagePlacement) -> dict[str, str]:
    """Return Kueue's labels of a stage, or none if the spec names no queue for it.

    The webhook of Kueue suspends the Job; tuneloop never sets `suspend`.
    """
    queue = placement.queue or cluster.queue
    if queue is None:
        return {}
    labels = {
        QUEUE: queue,
        "kueue.x-k8s.io/max-exec-time-seconds": str(placement.deadline_seconds),
    }
    if cluster.priority_class is not None:
        labels["kueue.x-k8s.io/priority-class"] = cluster.priority_class
    return labels


def object_annotations(
    fingerprint: str, image: str, git_commit: str | None, deadline_seconds: int
) -> dict[str, str]:
    """Return the annotations that record the full provenance of an object."""
    found = {
        FINGERPRINT: fingerprint,
        f"{PREFIX}/image": image,
        f"{PREFIX}/git-commit": git_commit or "unknown",
        DEADLINE: str(deadline_seconds),
    }
    return found if _DIGEST.fullmatch(image) else {**found, ALLOW_TAG: "true"}
