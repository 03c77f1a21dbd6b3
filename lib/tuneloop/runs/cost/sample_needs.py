"""Memory and time that the stages of a sampling run need, for the defaults of their pods."""

from __future__ import annotations

from collections.abc import Mapping

from tuneloop.runs.sampling.plan import SamplePlan
from tuneloop.specs.target import StageNeeds
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.training.sizing.evaluation import sample_host_bytes, sample_seconds

PROMPT_TOKENS = 512
"""Length of a prompt for which memory is estimated; the prompts are read by the stage alone."""


def sample_needs(
    plan: SamplePlan, devices: Mapping[str, TargetDevices | None]
) -> dict[str, StageNeeds]:
    """Estimate what the stages of a plan need.

    Args:
        plan: the planned run.
        devices: stage -> its devices; None for a CPU.
    """
    options, target = plan.spec.sample, devices.get("sample")
    if options.backend is not None:  # a server does the work
        return {stage.stage: StageNeeds() for stage in plan.stages}
    chip = target.chip if target else None
    lengths = (PROMPT_TOKENS, options.max_new_tokens)
    needs = {
        "sample": StageNeeds(
            sample_host_bytes(plan.architecture, options.batch_size, *lengths, chip),
            sample_seconds(
                plan.architecture,
                chip,
                completions=plan.prompts * options.completions,
                batch_size=options.batch_size,
                new_tokens=options.max_new_tokens,
            ),
        ),
        "import": StageNeeds(seconds=0.0),
    }
    return {stage.stage: needs[stage.stage] for stage in plan.stages}
