"""A plan as Kubernetes objects and as files for `kubectl apply -f DIR`: one file a stage."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.errors import SpecError, UsageError
from tuneloop.k8s.accelerators.shapes import Accelerators, load_accelerators
from tuneloop.k8s.rendering.render import Object, Renderer, Templates, file_name
from tuneloop.k8s.rendering.templates import Template, parse_template
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.runs.plan import Plan
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.run import RunSpec
from tuneloop.storage import files, paths

FOLDER = "manifests/k8s"
"""Of a checkout: templates and accelerator table."""


@dataclass(frozen=True)
class Manifests:
    """What `manifests/k8s` holds, parsed once."""

    templates: Templates
    accelerators: Accelerators


def load_manifests(folder: str) -> Manifests:
    """Read templates and accelerator table from `manifests/k8s`."""
    templates = Templates(
        pod=_template(paths.join(folder, "pod.yaml")),
        job=_template(paths.join(folder, "job.yaml")),
        jobset=_template(paths.join(folder, "jobset.yaml")),
        config_map=_template(paths.join(folder, "configmap.yaml")),
        submitter=_template(paths.join(folder, "submitter.yaml")),
    )
    return Manifests(templates, load_table(folder))


def load_table(folder: str) -> Accelerators:
    """Read the accelerator table alone."""
    url = paths.join(folder, "accelerators.yaml")
    return load_accelerators(_read(url), url)


def _template(url: str) -> Template:
    return parse_template(_read(url), url)


def _read(url: str) -> bytes:
    try:
        return files.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: missing, expected {FOLDER} of a tuneloop checkout") from e


def cluster_of(spec: RunSpec) -> ClusterSpec:
    """The spec's placement on a cluster; SpecError if it has none."""
    if spec.execution.cluster is None:
        raise SpecError(
            f"run spec {spec.name}: execution.cluster is missing, expected at least its namespace;"
            " add it to place the stages on a cluster"
        )
    return spec.execution.cluster


def image_of(spec: RunSpec, image: str | None) -> str:
    """The image to run: the option's, else the spec's; SpecError if neither names one."""
    chosen = image or cluster_of(spec).image
    if chosen is None:
        raise SpecError(
            f"run spec {spec.name}: no image, expected REPOSITORY@sha256:DIGEST; give --image or"
            " execution.cluster.image"
        )
    return chosen


def renderer_of(plan: Plan, manifests: Manifests, image: str, git_commit: str | None) -> Renderer:
    """What renders the stages of a plan.

    Raises:
        SpecError: a shape is impossible, or the stages could hold more chip-hours than the spec
            allows.
    """
    renderer = Renderer(
        run_name=plan.spec.name,
        cluster=cluster_of(plan.spec),
        image=image,
        git_commit=git_commit,
        templates=manifests.templates,
        accelerators=manifests.accelerators,
    )
    _check_budget(plan, renderer)
    return renderer


def _check_budget(plan: Plan, renderer: Renderer) -> None:
    budget = renderer.cluster.budget_chip_hours
    if budget is None:
        return
    most = sum(renderer.chip_hours(stage) for stage in plan.stages)
    if most > budget:
        raise SpecError(
            f"run spec {plan.spec.name}: its stages could hold {most:g} chip-hours until their"
            f" deadlines, execution.cluster.budget_chip_hours allows {budget:g}; shorten"
            " deadline_seconds, choose smaller shapes, or raise the budget"
        )


def render_run(plan: Plan, renderer: Renderer) -> dict[str, list[Object]]:
    """Render every stage of a plan.

    Returns:
        File name -> its objects, in the order in which they are applied.
    """
    return {
        file_name(position, stage): renderer.render(stage)
        for position, stage in enumerate(plan.stages, start=1)
    }


def dump_files(documents: dict[str, list[Object]]) -> dict[str, str]:
    """File name -> YAML text."""
    return {name: dump(objects) for name, objects in documents.items()}
