"""Steps of a training that the JAX profiler traces."""

from __future__ import annotations

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec


class ProfilerSpec(Spec):
    """Trace of some training steps by the JAX profiler, for TensorBoard, XProf or Perfetto."""

    first_step: int = Field(ge=1)
    """First step of the trace, counted from 1; the first steps of a process include compilation, so
    take a later one."""
    last_step: int = Field(ge=1)
    """Last step of the trace; three to five steps are enough, and each makes the files larger."""

    @model_validator(mode="after")
    def _is_range(self) -> ProfilerSpec:
        if self.last_step < self.first_step:
            raise ValueError(
                f"last_step is {self.last_step}, expected at least first_step ({self.first_step})"
            )
        return self
