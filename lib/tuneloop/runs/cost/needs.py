"""Memory and time that each stage of a plan needs, for the defaults of its pods."""

from __future__ import annotations

from collections.abc import Mapping

from tuneloop.runs.planning.plan import Plan
from tuneloop.runs.planning.train_step import PlannedStep, planned_step
from tuneloop.specs.target import StageNeeds
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.training.sizing.evaluation import eval_host_bytes, eval_seconds
from tuneloop.training.sizing.work import step_work

TRACES_PER_SECOND = 1000.0
"""Traces that one export process reads at least, with all checks switched on."""
STEP_SECONDS = 0.1
"""Least time of a training step; with small models, the host and the exchange of data count."""


def stage_needs(plan: Plan, devices: Mapping[str, TargetDevices | None]) -> dict[str, StageNeeds]:
    """Estimate what the stages of a plan need.

    Args:
        plan: the planned run.
        devices: stage -> its devices; None for a CPU.

    Raises:
        SpecError: the batch, the mesh or the model does not fit the devices of the train stage.
    """
    options, train, chips = plan.spec.eval, plan.spec.train, devices.get("eval")
    step = planned_step(plan, devices.get("train"))
    return {
        "export": StageNeeds(seconds=plan.summary.trace_count / TRACES_PER_SECOND),
        "train": StageNeeds(step.host.peak_bytes, _train_seconds(step)),
        "eval": StageNeeds(
            eval_host_bytes(options, train, plan.architecture, has_chip=chips is not None),
            eval_seconds(
                options,
                train,
                plan.architecture,
                chips.chip if chips else None,
                items=[each.items for each in plan.eval_sets],
            ),
        ),
        "import": StageNeeds(seconds=0.0),
    }


def _train_seconds(step: PlannedStep) -> float | None:
    """Return the least time of all steps; None on a CPU and on chips without published figures."""
    if step.target is None:
        return None
    work = step_work(step.train, step.architecture, step.target.devices)
    seconds = work.seconds(step.target.chip, step.target.devices)
    return None if seconds is None else step.steps * max(STEP_SECONDS, seconds)
