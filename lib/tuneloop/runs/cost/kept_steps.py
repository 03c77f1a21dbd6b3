"""Bytes that the kept steps of a training take in the artifacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tuneloop.history.units import size
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.sizing.parameters import adapter_count, parameter_count

_FLOAT32 = 4
_RESUMED = 3 * _FLOAT32
"""Bytes for each trained weight in a checkpoint: the weight and the two moments of AdamW."""


@dataclass(frozen=True)
class KeptSteps:
    """What `train.keep_checkpoints` costs, in closed form."""

    steps: int
    output_bytes: int
    """Outputs of the train stage: adapters with LoRA, whole models otherwise."""
    resume_bytes: int
    """Checkpoints of these steps, from which an interrupted training goes on."""

    @property
    def line(self) -> str:
        """The cost in one line."""
        return (
            f"{self.steps} kept checkpoints: about {size(self.output_bytes)} of outputs, and"
            f" {size(self.resume_bytes)} of checkpoints to resume from"
        )

    def as_json(self) -> dict[str, int]:
        """Return the cost for `--json`."""
        return asdict(self)


def kept_steps_of(plan: AnyPlan) -> KeptSteps | None:
    """Estimate the cost of the kept steps of a plan; None if none are kept."""
    if not isinstance(plan, Plan) or not plan.spec.train.keep_checkpoints:
        return None
    count, method = len(plan.spec.train.keep_checkpoints), plan.spec.train.method
    if isinstance(method, LoraMethod):
        trained = adapter_count(plan.architecture, method)
        stored = _FLOAT32 * trained
    else:
        trained = parameter_count(plan.architecture)
        stored = plan.model.weights_bytes or _FLOAT32 * trained
    return KeptSteps(count, count * stored, count * _RESUMED * trained)
