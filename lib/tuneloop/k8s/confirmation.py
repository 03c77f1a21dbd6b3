"""Whether the cluster confirms a submission that was read from the artifacts.

Stages can write below the artifacts, but they have no token for the API server. Whoever submits a
run has one, and leaves the digest of the submission on the cluster. Nothing is created from a
submission without it: otherwise a stage could choose a Job's image, its service account and the
Secrets that it mounts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tuneloop.artifacts.submission import Submission
from tuneloop.k8s import names
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.storage.packed import unpack


def stamped(config_map: Object, submission: Submission) -> Object:
    """Return the ConfigMap of a stage with the digest of the submission that it is part of."""
    metadata = config_map["metadata"]
    annotations = {**metadata.get("annotations", {}), names.SUBMISSION: submission.digest}
    return {**config_map, "metadata": {**metadata, "annotations": annotations}}


def is_confirmed(cluster: ClusterApi, submission: Submission) -> bool:
    """Return whether the namespace has an object that was created from this submission.

    That is the ConfigMap of one of its stages, or that of its in-cluster submitter.
    """
    for stage in submission.stages:
        found = cluster.get("ConfigMap", str(stage.config_map["metadata"]["name"]))
        annotations = _mapping(_mapping(found).get("metadata")).get("annotations")
        if _mapping(annotations).get(names.SUBMISSION) == submission.digest:
            return True
    found = cluster.get("ConfigMap", names.submitter_name(submission.run_id))
    held = _held_by(_mapping(_mapping(found).get("binaryData")))
    return held is not None and held.digest == submission.digest


def _held_by(data: Mapping[str, Any]) -> Submission | None:
    """Return the submission in the ConfigMap of a submitter; None if there is none."""
    for packed in data.values():
        try:
            return Submission.model_validate_json(unpack(base64.b64decode(packed)))
        except (ValueError, TypeError):  # ValidationError is a ValueError
            continue
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
