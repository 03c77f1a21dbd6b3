"""From a run spec to what goes to a cluster: image, plan and renderer put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuneloop import provenance
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
    checkout: Path,
    *,
    image: str | None,
    allow_tag: bool = False,
    seed: int | None = None,
    manifests: Manifests | None = None,
) -> Prepared:
    """Plan a run for a cluster.

    Args:
        spec: the run spec, with `execution.cluster`.
        checkout: holds the templates; its commit is stamped into annotations.
        image: overrides the spec's.
        allow_tag: take an image without a digest; its reference then names the code.
        seed: overrides the spec's.
        manifests: parsed before; None: the checkout's.

    Raises:
        SpecError: no placement, no image, an impossible shape, or too many chip-hours.
    """
    reference = image_of(spec, image)
    identity = image_identity(reference, allow_tag=allow_tag)
    plan = load_plan(spec, checkout, seed=seed, image_digest=identity)
    manifests = manifests or load_manifests(str(checkout / FOLDER))
    commit: str | None = provenance.gather(checkout)["git_commit"]
    return Prepared(plan, renderer_of(plan, manifests, reference, commit))
