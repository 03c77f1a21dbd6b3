"""A plan as files for `kubectl apply -f DIR`: one file a stage, ConfigMap before Job."""

from __future__ import annotations

from tuneloop import storage
from tuneloop.errors import SpecError, UsageError
from tuneloop.k8s.render import Template, Templates, file_name, render_stage
from tuneloop.k8s.shapes import Accelerators, load_accelerators
from tuneloop.k8s.templates import parse_template
from tuneloop.k8s.yaml_out import dump
from tuneloop.runs.plan import Plan
from tuneloop.specs import ClusterSpec, RunSpec


def load_manifests(folder: str) -> tuple[Templates, Accelerators]:
    """Read templates and accelerator table from `manifests/k8s`."""
    job, config_map = (
        _template(storage.join(folder, name)) for name in ("job.yaml", "configmap.yaml")
    )
    table = storage.join(folder, "accelerators.yaml")
    return Templates(job, config_map), load_accelerators(_read(table), table)


def _template(url: str) -> Template:
    return Template(parse_template(_read(url), url), url)


def _read(url: str) -> bytes:
    try:
        return storage.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: missing, expected manifests/k8s of a tuneloop checkout") from e


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


def render_run(
    plan: Plan,
    *,
    image: str,
    git_commit: str | None,
    templates: Templates,
    accelerators: Accelerators,
) -> dict[str, str]:
    """Render every stage of a plan.

    Returns:
        File name -> YAML text, in the order in which they are applied.
    """
    cluster = cluster_of(plan.spec)
    return {
        file_name(position, stage): dump(
            render_stage(
                plan.spec.name,
                stage,
                cluster,
                image=image,
                git_commit=git_commit,
                templates=templates,
                accelerators=accelerators,
            )
        )
        for position, stage in enumerate(plan.stages, start=1)
    }
