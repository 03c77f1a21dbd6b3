"""Checks of the model that a run starts from: whether pods can read it, and have room for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from tuneloop.artifacts.runs.run_manifest import ModelOfRun
from tuneloop.k8s.checks.offline import Finding
from tuneloop.specs.run import ExecutionSpec

RUNTIME_BYTES = 1 << 30
"""Memory of a stage without a model: Python, JAX and compiled programs, at least."""
COPIES_ON_DISK = 2
"""Copies of the weights that training writes to the local disk at least: a checkpoint and the tuned
model."""
ANSWERING = ("eval", "sample")
"""Stages that generate answers and load whole models."""

_UNITS: dict[str, float] = {"": 1, "m": 1e-3} | {
    unit: base**power
    for power, letter in enumerate("KMGTPE", start=1)
    for unit, base in (("k" if letter == "K" else letter, 1000.0), (f"{letter}i", 1024.0))
}


def quantity_to_number(quantity: str) -> float:
    """Convert a `Quantity` of a spec, such as `4Gi`, to a number, such as 4294967296."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]


def check_base_model(
    model: ModelOfRun, execution: ExecutionSpec, stages: Sequence[str]
) -> list[Finding]:
    """Warn if pods cannot read a stored model, or if it is larger than they are.

    Args:
        model: the model that the run starts from.
        execution: execution settings of the run.
        stages: names of the stages of the run.
    """
    field = "train.model" if "train" in stages else "sample.model"
    findings = []
    if model.place is not None and "://" not in model.place:
        message = (
            f"the files of model {model.name} are in {model.place} on this machine, which pods"
            " cannot read; add the model to a bucket, without --in-place"
        )
        findings.append(Finding(field, message, "warning"))
    return [*findings, *_sizes(model, execution, stages)]


def check_host_memory(needed_bytes: int, execution: ExecutionSpec) -> list[Finding]:
    """Warn if the pods of the train stage request less memory than they are estimated to need.

    Args:
        needed_bytes: estimate for one pod, from `training/sizing/host_memory.py`.
        execution: execution settings of the run.
    """
    if execution.cluster is None:
        return []
    placement = execution.cluster.placement("train")
    memory = placement.memory
    is_stated = "memory" in placement.model_fields_set  # else the renderer requests enough
    if not is_stated or quantity_to_number(memory) >= needed_bytes:
        return []
    message = (
        f"is {memory}, but a pod needs about {needed_bytes / 2**30:.1f} GiB of host memory, with"
        f" the copy of a checkpoint; set it to {math.ceil(1.1 * needed_bytes / 2**30)}Gi or more"
    )
    return [Finding("execution.cluster.train.memory", message, "warning")]


def _sizes(model: ModelOfRun, execution: ExecutionSpec, stages: Sequence[str]) -> Iterator[Finding]:
    weights, cluster = model.weights_bytes, execution.cluster
    if weights is None or cluster is None:
        return
    for stage in (each for each in ("train", *ANSWERING) if each in stages):
        pod, field = cluster.placement(stage), f"execution.cluster.{stage}"
        needed = weights + RUNTIME_BYTES
        # Chips have memory of their own, into which the weights are read piece by piece.
        # `check_host_memory` is about the train stage.
        is_on_cpu = stage in ANSWERING and pod.accelerator == "cpu"
        if is_on_cpu and quantity_to_number(pod.memory) < needed:
            message = (
                f"is {pod.memory}, but the weights of model {model.name} take"
                f" {weights / 1e9:,.1f} GB and the stage itself at least 1 GB; raise it"
            )
            yield Finding(f"{field}.memory", message, "warning")
        disk = COPIES_ON_DISK * weights
        if stage == "train" and quantity_to_number(pod.ephemeral_storage) < disk:
            message = (
                f"is {pod.ephemeral_storage}, but a checkpoint and the tuned model take at least"
                f" {disk / 1e9:,.1f} GB of local disk; raise it"
            )
            yield Finding(f"{field}.ephemeral_storage", message, "warning")
