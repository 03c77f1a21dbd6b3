"""Compare the batch of an evaluation with the memory of the device that generates it."""

from __future__ import annotations

from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.training.sizing.evaluation import (
    batch_bytes,
    largest_rows,
    longest_answer,
    weight_bytes,
)


def warn_of_batch(plan: AnyPlan, target: TargetDevices | None) -> str | None:
    """Return a sentence about a batch that is estimated not to fit; None without one.

    An estimate alone refuses nothing: the prompts may be shorter than the longest that training
    allows, for which the batch is estimated.

    Args:
        plan: the planned run.
        target: devices of the eval stage; None for a CPU.
    """
    if not isinstance(plan, Plan):
        return None
    options, train, architecture = plan.spec.eval, plan.spec.train, plan.architecture
    if target is None or options.batch_size == "auto":
        return None
    if options.backend is not None and {"base", "tuned"} <= options.backend.models.keys():
        return None
    lengths = train.max_length_tokens, longest_answer(options, train)
    weights, limit = weight_bytes(architecture), target.chip.limit_bytes
    needed = weights + batch_bytes(architecture, options.batch_size, *lengths)
    if needed <= limit:
        return None
    found = (
        f"eval.batch_size: is {options.batch_size}, but weights and batch need about"
        f" {needed / 2**30:.1f} GiB for prompts of {lengths[0]} tokens, and a device of"
        f" {target.name} has {limit / 2**30:.1f} GiB"
    )
    if weights > limit:
        return f"{found}; the weights alone do not fit, so use a larger machine, or eval.backend"
    rows = largest_rows(architecture, limit, *lengths)
    return f"{found}; if your prompts are that long, set it to {rows}, or to auto"
