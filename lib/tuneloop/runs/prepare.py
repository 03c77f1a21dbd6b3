"""From a run spec to what goes to a cluster: image, plan and renderer put together."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop import provenance, resources
from tuneloop.k8s.names import image_identity
from tuneloop.k8s.rendering.manifests import (
    FOLDER,
    Manifests,
    image_of,
    load_manifests,
    renderer_of,
)
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.runs.plan import Plan, load_plan
from tuneloop.specs.run import RunSpec


@dataclass(frozen=True)
class Prepared:
    """A plan and what renders it."""

    plan: Plan
    renderer: Renderer


def prepare(
    spec: RunSpec,
    *,
    image: str | None,
    allow_tag: bool = False,
    seed: int | None = None,
    manifests: Manifests | None = None,
) -> Prepared:
    """Plan a run for a cluster.

    Args:
        spec: the run spec, with `execution.cluster`.
        image: overrides the spec's.
        allow_tag: take an image without a digest; its reference then names the code.
        seed: overrides the spec's.
        manifests: parsed before; None: those that travel with the code.

    Raises:
        SpecError: no placement, no image, an impossible shape, or too many chip-hours.
    """
    reference = image_of(spec, image)
    identity = image_identity(reference, allow_tag=allow_tag)
    plan = load_plan(spec, seed=seed, image_digest=identity)
    manifests = manifests or load_manifests(str(resources.data_path(FOLDER)))
    commit: str | None = provenance.gather()["git_commit"]
    return Prepared(plan, renderer_of(plan, manifests, reference, commit))
