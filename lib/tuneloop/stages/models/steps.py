"""Names of the weights of steps before the end of a training."""

from __future__ import annotations

from tuneloop.artifacts.results import TrainResults
from tuneloop.specs.stages import EvalStage

FOLDER = "checkpoints"
"""First part of the names of the train stage's outputs that hold them; the second is the step."""


def checkpoint_name(step: int) -> str:
    """Return the name in an evaluation of the weights of a step."""
    return f"step {step}"


def checkpoint_steps(spec: EvalStage, trained: TrainResults) -> list[int]:
    """Return the steps whose weights are asked; training that stopped early has fewer."""
    asked = spec.options.checkpoints
    return [step for step in sorted(trained.checkpoints) if asked == "all" or step in asked]
