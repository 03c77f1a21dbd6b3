"""Checks of the images of a run: they contain the packages that its stages and artifacts need.

The build writes labels into each image. If an image cannot be looked up in its registry, that is a
warning: nodes may reach a registry, or have an image, that this machine cannot see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuneloop.errors import Unavailable
from tuneloop.k8s.checks.flight import Object, Preflight, pods_of
from tuneloop.k8s.checks.offline import Finding
from tuneloop.k8s.names import STAGE
from tuneloop.k8s.registry.labels import read_labels
from tuneloop.stages.table import STAGES

PROTOCOLS = "dev.tuneloop.protocols"
"""Label: protocols of artifacts, such as `file,gs,s3`."""
EXTRAS = "dev.tuneloop.extras"
"""Label: extras of tuneloop that are installed, such as `data,gcs,s3,store,train`."""
JAX = "dev.tuneloop.jax"
"""Label: the JAX_VARIANT of the build: `cpu`, `cuda` or `tpu`."""
_SAME_PROTOCOL = {"gcs": "gs", "local": "file", "s3a": "s3"}
"""Other names that fsspec knows for a protocol."""


def images(flight: Preflight) -> Iterator[Finding]:
    """Compare the labels of each image with what the run needs of it."""
    users: dict[str, list[Object]] = {}
    for workload in flight.workloads:
        (container,) = next(pods_of(workload))["spec"]["containers"]
        users.setdefault(container["image"], []).append(workload)
    submitter = flight.spec.submitter.image
    if submitter is not None:
        users.setdefault(submitter, [])
    for image, workloads in users.items():
        try:
            labels = read_labels(image)
        except Unavailable as e:
            message = f"not checked for the packages that the run needs: {e}"
            yield Finding(f"image {image}", message, "warning")
            continue
        if PROTOCOLS not in labels and EXTRAS not in labels:
            message = (
                f"has no label {EXTRAS}, so it was not checked for the packages that the run"
                " needs; build it with `make image`"
            )
            yield Finding(f"image {image}", message, "warning")
            continue
        for reason in _reasons(flight, labels, workloads, is_submitter=image == submitter):
            yield Finding(f"image {image}", reason)


def _reasons(
    flight: Preflight, labels: Mapping[str, str], workloads: list[Object], *, is_submitter: bool
) -> Iterator[str]:
    scheme, separator, _ = flight.artifacts.partition("://")
    protocol = _SAME_PROTOCOL.get(scheme, scheme) if separator else "file"
    if protocol not in _listed(labels, PROTOCOLS):
        yield (
            f"has no package for {protocol}://, which execution.artifacts uses; expected one of"
            f" {labels.get(PROTOCOLS, 'none')}; build the image with the package, or use another"
            " bucket"
        )
    extras = _listed(labels, EXTRAS)
    if is_submitter and "k8s" not in extras:
        yield "has no extra k8s, which the submitter needs; use an image of target `base`"
    for workload in workloads:
        stage = workload["metadata"]["labels"][STAGE]
        extra = STAGES[stage].extra
        if extra not in extras:
            yield (
                f"has no extra {extra}, which stage {stage} needs; use an image of target `train`"
            )
        elif extra == "train" and _variant(workload) not in ("cpu", labels.get(JAX)):
            yield (
                f"has JAX for {labels.get(JAX)}, but stage {stage} needs it for"
                f" {_variant(workload)}; build it with JAX_VARIANT={_variant(workload)}"
            )


def _variant(workload: Object) -> str:
    """Return the JAX_VARIANT that a stage needs; such images also run on CPUs."""
    (container,) = next(pods_of(workload))["spec"]["containers"]
    platforms = {each["name"]: each.get("value", "") for each in container.get("env", [])}
    first: str = platforms.get("JAX_PLATFORMS", "cpu").partition(",")[0]
    return first


def _listed(labels: Mapping[str, str], name: str) -> set[str]:
    return {word.strip() for word in labels.get(name, "").split(",")}
