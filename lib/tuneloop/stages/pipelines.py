"""The kinds of runs: which stages each of them has, in which order.

To add a kind of run, write the class of its spec and add a row here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import AnyRunSpec, SampleRunSpec
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.stages.table import STAGES, StageDef


@dataclass(frozen=True)
class Pipeline:
    """One kind of run."""

    spec: type[AnyRunSpec]
    """Class of the spec."""
    stages: tuple[str, ...]
    """Names of the stages, in the order in which they run."""
    optional: tuple[str, ...] = ()
    """Stages that are planned only if the spec has their key."""


TRAINING_STAGES = ("export", "train", "eval", "import")
"""The stages of the loop, in order."""

PIPELINES: dict[str, Pipeline] = {
    "training": Pipeline(RunSpec, TRAINING_STAGES),
    "sampling": Pipeline(SampleRunSpec, ("sample", "import"), optional=("import",)),
    "scoring": Pipeline(ScoreRunSpec, ("score", "import"), optional=("import",)),
}
"""Name -> kind of run."""


def pipeline_of(spec: AnyRunSpec) -> Pipeline:
    """Return the kind of run that a spec describes."""
    return next(each for each in PIPELINES.values() if each.spec is type(spec))


def planned_stages(spec: AnyRunSpec) -> tuple[StageDef, ...]:
    """Return the stages of a run, in the order in which they run."""
    pipeline, value = pipeline_of(spec), dict(spec)
    names = {field.alias or name: name for name, field in type(spec).model_fields.items()}
    return tuple(
        STAGES[name]
        for name in pipeline.stages
        if name not in pipeline.optional or value[names[name]] is not None
    )


def ordered(stages: Iterable[str] | Mapping[str, object]) -> list[str]:
    """Return names of stages in the order in which they run; unknown names come last, sorted."""
    found = set(stages)
    return [*(name for name in STAGES if name in found), *sorted(found - set(STAGES))]
