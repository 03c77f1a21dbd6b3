"""The JobSet API for tests: a CRD that is generated from the Python models of Kubeflow.

The real API server serves it, so strict validation, create, adopt and delete use the real paths.
There is no controller, so a JobSet creates no Jobs.
"""

from __future__ import annotations

from typing import Any

from kubeflow_trainer_api import models

from tests.cluster.controlplane import Cluster, wait_until

QUANTITY = "IoK8sApimachineryPkgApiResourceQuantity"
INT_OR_STRING = "IoK8sApimachineryPkgUtilIntstrIntOrString"
KEPT = ("description", "format", "enum", "required", "minimum", "maximum")


def serve_jobset(cluster: Cluster) -> None:
    """Apply the CRD and wait until JobSets are served."""
    schema = models.JobsetV1alpha2JobSet.model_json_schema(by_alias=True)
    properties = schema["properties"]
    definition = {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(properties["spec"], schema["$defs"]),
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    names = {"plural": "jobsets", "singular": "jobset", "kind": "JobSet", "listKind": "JobSetList"}
    metadata = {
        "name": "jobsets.jobset.x-k8s.io",
        # The group belongs to Kubernetes, which requires an annotation about the API's approval.
        "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
    }
    version = {"name": "v1alpha2", "served": True, "storage": True}
    version |= {"schema": {"openAPIV3Schema": definition}, "subresources": {"status": {}}}
    spec = {"group": "jobset.x-k8s.io", "scope": "Namespaced", "names": names}
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    cluster.apply(
        {**kind, "metadata": metadata, "spec": {**spec, "versions": [version]}},
        options=("--server-side",),  # it is too large for the annotation of client-side apply
    )
    wait_until(
        lambda: cluster.kubectl("get", "jobsets.jobset.x-k8s.io", "-A").returncode == 0,
        "JobSets are served",
    )


def structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Convert a JSON schema for a CRD: no references, no null, and a type for each value."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        if name in (QUANTITY, INT_OR_STRING):
            return {"x-kubernetes-int-or-string": True}
        return structural(definitions[name], definitions)
    if "anyOf" in node or "allOf" in node:
        choices = [each for each in node.get("anyOf") or node["allOf"] if each != NULL]
        return structural(choices[0], definitions)
    found = {key: node[key] for key in KEPT if key in node}
    kind = node.get("type", "object")
    found["type"] = kind
    if kind == "array":
        found["items"] = structural(node["items"], definitions)
    elif "properties" in node:
        found["properties"] = {
            key: structural(value, definitions) for key, value in node["properties"].items()
        }
    elif isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = structural(node["additionalProperties"], definitions)
    elif kind == "object":
        found["x-kubernetes-preserve-unknown-fields"] = True
    return found


NULL = {"type": "null"}
