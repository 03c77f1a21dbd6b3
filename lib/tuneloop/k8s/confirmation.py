"""Whether the cluster confirms a submission that was read from the artifacts.

Stages can write below the artifacts, but they have no token for the API server. Whoever submits a
run has one, and leaves the digest of the submission on the cluster. Nothing is created from a
submission without it: otherwise a stage could choose a Job's image, its service account and the
Secrets that it mounts.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from tuneloop.artifacts.runs.submission import Submission
from tuneloop.k8s import names
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.storage.packed import unpack


def stamped(config_map: Object, submission: Submission) -> Object:
    """Return the ConfigMap of a stage with the digest of the submission that it is part of."""
    metadata = config_map["metadata"]
    annotations = {**metadata.get("annotations", {}), names.SUBMISSION: submission.digest}
    return {**config_map, "metadata": {**metadata, "annotations": annotations}}


def is_confirmed(
    cluster: ClusterApi, submission: Submission, *, sweep_id: str | None = None
) -> bool:
    """Return whether the namespace has an object that was created from this submission.

    That is the ConfigMap of one of its stages, or that of its in-cluster submitter.

    Args:
        cluster: the namespace.
        submission: the submission of a run.
        sweep_id: sweep that the run is a member of, whose submitter has the submissions of all.
    """
    for stage in submission.stages:
        found = cluster.get("ConfigMap", str(stage.config_map["metadata"]["name"]))
        annotations = _mapping(_mapping(found).get("metadata")).get("annotations")
        if _mapping(annotations).get(names.SUBMISSION) == submission.digest:
            return True
    held = _held_by(cluster, submission.run_id)
    if sweep_id is not None:
        held += _held_by(cluster, sweep_id)
    return any(each.digest == submission.digest for each in held)


def _held_by(cluster: ClusterApi, identity: str) -> list[Submission]:
    """Return the submissions in the ConfigMap of the submitter of a run or a sweep."""
    found = cluster.get("ConfigMap", names.submitter_name(identity))
    held: list[Submission] = []
    for packed in _mapping(_mapping(found).get("binaryData")).values():
        with contextlib.suppress(ValueError, TypeError):  # ValidationError is a ValueError
            text = unpack(base64.b64decode(packed))
            value = json.loads(text)
            members = value.get("members", [value]) if isinstance(value, dict) else []
            held += [Submission.model_validate(each) for each in members]
    return held


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
