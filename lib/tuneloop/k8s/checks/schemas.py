"""Validate rendered objects against published schemas and models.

Objects are checked against the JSON schemas of the Kubernetes release and the models of the
Kubernetes client, and JobSets also against the models that Kubeflow publishes. Each of them finds
errors that the others miss. Nothing in this module is specific to tuneloop.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Problem = tuple[str, str]
"""Path inside the object, and a description of the problem."""

KUBERNETES_VERSION = "1.36"
_BUILT_IN = {
    "ConfigMap": "V1ConfigMap",
    "Job": "V1Job",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "ServiceAccount": "V1ServiceAccount",
}


def missing_package() -> str | None:
    """Return the name of a package that these checks need and that is not installed."""
    for name in ("kubernetes", "kubernetes_validate", "kubeflow_trainer_api"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:
            return e.name or name
    return None


def schema_problems(document: Object) -> list[Problem]:
    """Return the problems that the published schemas and models find."""
    if document.get("kind") == "JobSet":
        return list(_jobset(document))
    if document.get("kind") not in _BUILT_IN:
        return [("kind", f"found {document.get('kind')!r}, expected a kind that tuneloop renders")]
    return [*_json_schema(document), *_client_model(document)]


def _json_schema(document: Object) -> Iterator[Problem]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as e:
        yield _path(e.path), f"{str(e.message)[:200]} (schema of Kubernetes {KUBERNETES_VERSION})"


def _client_model(document: Object) -> Iterator[Problem]:
    from pydantic import ValidationError

    from tuneloop.k8s.client.connection import client_model

    try:
        client_model(_BUILT_IN[document["kind"]]).model_validate(document)
    except ValidationError as e:
        for error in e.errors():
            yield _path(error["loc"]), f"{error['msg']} (model of the Kubernetes client)"


def _jobset(document: Object) -> Iterator[Problem]:
    from kubeflow_trainer_api import models
    from pydantic import ValidationError

    # The pods are replaced, because these models expect another type for quantities. The Jobs,
    # including their pods, are checked with the built-in schemas below.
    outer = copy.deepcopy(document)
    for replicated in outer["spec"].get("replicatedJobs", []):
        replicated["template"]["spec"]["template"] = {"spec": {"containers": [{"name": "main"}]}}
    try:
        known = models.JobsetV1alpha2JobSet.model_validate(outer).to_dict()
    except ValidationError as e:
        for error in e.errors():
            yield _path(error["loc"]), f"{error['msg']} (model of JobSet)"
        return
    for path in _unknown(outer, known, ""):
        yield path, "is not a field of a JobSet; remove it"
    for number, replicated in enumerate(document["spec"].get("replicatedJobs", [])):
        place = f"spec.replicatedJobs[{number}].template.spec"
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "child"}}
        for path, problem in schema_problems({**job, "spec": replicated["template"]["spec"]}):
            yield place + path.removeprefix("spec"), problem


def _unknown(given: Any, known: Any, path: str) -> Iterator[str]:
    """Yield the paths of keys that a model dropped because it does not know them."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            inner = f"{path}.{key}" if path else key
            if key not in known:
                if value not in (None, {}, []):
                    yield inner
            else:
                yield from _unknown(value, known[key], inner)
    elif isinstance(given, list) and isinstance(known, list):
        for number, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _unknown(one, other, f"{path}[{number}]")


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the object"
