"""Load templates and accelerator table, and build the renderer of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop import provenance
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.errors import SpecError, UsageError
from tuneloop.k8s.accelerators.shapes import Accelerators, load_accelerators
from tuneloop.k8s.rendering.render import Object, Renderer, Templates
from tuneloop.k8s.rendering.templates import Template, parse_template
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.stages import StageSpec
from tuneloop.storage import files, paths

FOLDER = "manifests/k8s"
"""Folder of a checkout with the templates and the accelerator table."""


@dataclass(frozen=True)
class Manifests:
    """The parsed templates and accelerator table of `manifests/k8s`."""

    templates: Templates
    accelerators: Accelerators


def load_manifests(folder: str) -> Manifests:
    """Read templates and accelerator table from `manifests/k8s`."""
    place = paths.join(folder, "accelerators.yaml")
    table = _read(place)
    templates = Templates(
        pod=_template(paths.join(folder, "pod.yaml")),
        job=_template(paths.join(folder, "job.yaml")),
        jobset=_template(paths.join(folder, "jobset.yaml")),
        config_map=_template(paths.join(folder, "configmap.yaml")),
        submitter=_template(paths.join(folder, "submitter.yaml")),
        submission=_template(paths.join(folder, "submission.yaml")),
        sweep=_template(paths.join(folder, "sweep.yaml")),
        table_text=table.decode("utf-8-sig"),
    )
    return Manifests(templates, load_accelerators(table, place))


def _template(url: str) -> Template:
    return parse_template(_read(url), url)


def _read(url: str) -> bytes:
    try:
        return files.read(url)
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: does not exist, expected the files of {FOLDER}; use a complete checkout or"
            " wheel of tuneloop"
        ) from e


def cluster_of(spec: AnyRunSpec) -> ClusterSpec:
    """Return `execution.cluster` of a spec; raise SpecError if it is missing."""
    if spec.execution.cluster is None:
        raise SpecError(
            f"run spec {spec.name}: execution.cluster is missing, expected at least a namespace;"
            " add it to run the stages on a cluster"
        )
    return spec.execution.cluster


def image_of(spec: AnyRunSpec, image: str | None) -> str:
    """Return the image of the stages: `image` if given, else the spec's.

    Raises:
        SpecError: neither is given.
    """
    chosen = image or cluster_of(spec).image
    if chosen is None:
        raise SpecError(
            f"run spec {spec.name}: found no image, expected REPOSITORY@sha256:DIGEST; pass --image"
            " or set execution.cluster.image"
        )
    return chosen


def renderer_of(
    spec: AnyRunSpec, manifests: Manifests, image: str, git_commit: str | None
) -> Renderer:
    """Build the renderer of a run."""
    return Renderer(
        run_name=spec.name,
        cluster=cluster_of(spec),
        image=image,
        git_commit=git_commit,
        templates=manifests.templates,
        accelerators=manifests.accelerators,
        version=provenance.gather()["libraries"].get("tuneloop"),
    )


def check_budget(spec: AnyRunSpec, stages: Sequence[StageSpec], renderer: Renderer) -> None:
    """Refuse a run that could hold more chip-hours than its spec allows.

    Raises:
        SpecError: a shape is impossible, or the stages could use more chip-hours.
    """
    budget = renderer.cluster.budget_chip_hours
    if budget is None:
        return
    most = sum(renderer.chip_hours(stage) for stage in stages)
    if most > budget:
        raise SpecError(
            f"run spec {spec.name}: the stages could use {most:g} chip-hours until their"
            f" deadlines, but execution.cluster.budget_chip_hours allows {budget:g}; shorten"
            " deadline_seconds, choose smaller shapes, or raise the budget"
        )


def stage_files(submission: Submission) -> dict[str, list[Object]]:
    """Assign a file name to each stage, in the order in which the stages run.

    Returns:
        File name -> its objects, in the order in which they are applied.
    """
    return {
        f"{position:02d}-{stage.name}.yaml": stage.documents
        for position, stage in enumerate(submission.stages, start=1)
    }


def dump_files(documents: dict[str, list[Object]]) -> dict[str, str]:
    """Return the YAML text of each file: file name -> text."""
    return {name: dump(objects) for name, objects in documents.items()}
