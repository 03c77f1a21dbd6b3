"""Lay out the folder of `tuneloop render`, so that `kubectl apply -f DIR` runs the whole loop.

The top of the folder holds the submitter, which creates stage after stage. kubectl does not descend
into `stages/`, which holds each stage for people who sequence them themselves.
"""

from __future__ import annotations

import copy
from typing import Any

from tuneloop.artifacts.runs.submission import Submission, name_of
from tuneloop.k8s import names
from tuneloop.k8s.rendering.comments import dump_commented
from tuneloop.k8s.rendering.manifests import stage_files
from tuneloop.k8s.rendering.render import Object, Templates
from tuneloop.k8s.rendering.yaml_out import dump

STAGES_FOLDER = "stages"
KUSTOMIZATION = "Kustomization"
"""The other name of kustomization.yaml: `kubectl apply -f DIR` reads every file that ends in .yaml,
and fails because no server serves a Kustomization."""


def folder_files(
    submission: Submission, config_map: Object, templates: Templates
) -> dict[str, str]:
    """Return the text of each file of the folder.

    Args:
        submission: the rendered run.
        config_map: ConfigMap of the submitter.
        templates: the templates that the objects were rendered with, for their comments.

    Returns:
        Path in the folder -> text. kubectl applies the files in order of their names.
    """
    files = submitter_files(submission.submitter, config_map, templates)
    before = None
    for name, objects in stage_files(submission).items():
        text = dump_commented([manual(each) for each in objects], templates)
        files[f"{STAGES_FOLDER}/{name}"] = _how_to_start(objects[-1], before) + text
        before = name_of(objects[-1])
    return files


def submitter_files(
    submitter: list[Object], config_map: Object, templates: Templates
) -> dict[str, str]:
    """Return the files at the top of the folder, which run everything; a sweep has no others."""
    *accounts, job = submitter
    top = {"account.yaml": accounts, "submit.yaml": [config_map, job]}
    top = {name: objects for name, objects in top.items() if objects}
    files = {name: dump_commented(objects, templates) for name, objects in top.items()}
    files[KUSTOMIZATION] = dump([_kustomization(sorted(top))])
    return files


def manual(document: Object) -> Object:
    """Return a stage's object for people who start stages themselves; workloads are suspended.

    A suspended workload has no pods, so it holds no machines, and it cannot fail because its input
    is missing. Kueue would start it, so it gets the label of its queue only from the person.
    """
    if document["kind"] == "ConfigMap":
        return document
    found = copy.deepcopy(document)
    found["metadata"].setdefault("annotations", {})[names.START] = names.BY_HAND
    found["metadata"]["labels"].pop(names.QUEUE, None)
    found["spec"] = {"suspend": True, **found["spec"]}
    return found


def _kustomization(resources: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }


def _how_to_start(workload: Object, before: str | None) -> str:
    """Return the comment at the top of a stage's file; `before` is the workload to wait for."""
    metadata = workload["metadata"]
    target = f"kubectl -n {metadata['namespace']} {{}} {workload['kind'].lower()}"
    if (queue := metadata["labels"].get(names.QUEUE)) is not None:
        start = f"{target.format('label')} {metadata['name']} {names.QUEUE}={queue}"
    else:
        patch = """--type merge -p '{"spec": {"suspend": false}}'"""
        start = f"{target.format('patch')} {metadata['name']} {patch}"
    when = "Start it with" if before is None else f"Once {before} has succeeded, start it with"
    return (
        "# One stage, for people who start stages themselves; the submitter does not need this"
        f" file.\n# The workload is suspended. {when}\n#   {start}\n# If you apply this file again"
        " later, the started workload is suspended again and its pods end.\n"
    )
