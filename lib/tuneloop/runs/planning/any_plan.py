"""Plans of all kinds of runs."""

from __future__ import annotations

from tuneloop.runs.planning.plan import Plan, load_plan
from tuneloop.runs.sampling.plan import SamplePlan, load_sample_plan
from tuneloop.runs.scoring.plan import ScorePlan, load_score_plan
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.scoring import ScoreRunSpec

AnyPlan = Plan | SamplePlan | ScorePlan
"""A planned run of any kind."""


def load_any_plan(
    spec: AnyRunSpec, *, seed: int | None = None, image_digest: str | None = None
) -> AnyPlan:
    """Read the inputs of a plan of any kind, and build it; see the loaders."""
    if isinstance(spec, RunSpec):
        return load_plan(spec, seed=seed, image_digest=image_digest)
    if isinstance(spec, ScoreRunSpec):
        return load_score_plan(spec, seed=seed, image_digest=image_digest)
    return load_sample_plan(spec, seed=seed, image_digest=image_digest)
