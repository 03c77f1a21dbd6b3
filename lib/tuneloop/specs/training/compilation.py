"""What `tuneloop plan --compile` compiles, and what the compiler reports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Spec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.train import TrainSpec

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "google-tunix", "qwix")
"""Packages that determine what a step compiles to."""


class Chip(Spec):
    """One JAX device of an accelerator; a chip may have several."""

    limit_bytes: int = Field(ge=1)
    """Memory that a program can use: that of the device without what the runtime keeps."""
    flops_per_second: float | None = None
    """Published peak rate of bfloat16 matrix products; null if the table states none."""
    bytes_per_second: float | None = None
    """Published bandwidth of the device's memory; null if the table states none."""


class TargetDevices(Spec):
    """The devices that a training step runs on."""

    name: str
    """Name of the shape in the accelerator table, such as `v5e-4x4`."""
    platform: Literal["tpu", "gpu"]
    """Kind of accelerator."""
    family: str
    """Generation of the chip, such as `v5e`."""
    topology: str | None = None
    """Arrangement of the chips of one TPU slice; null on GPUs."""
    slices: int = Field(default=1, ge=1)
    """TPU slices, joined over the data-centre network."""
    chips_per_host: int = Field(ge=1)
    """Chips of one host."""
    chips: int = Field(ge=1)
    """Chips of all hosts of all slices."""
    devices: int = Field(ge=1)
    """JAX devices of all hosts of all slices."""
    chip: Chip
    """One of these devices."""

    @property
    def devices_per_host(self) -> int:
        """JAX devices of one host."""
        return self.chips_per_host * self.devices // self.chips


class CompileRequest(Spec):
    """A training step and the devices to compile it for."""

    train: TrainSpec
    """Options of the train stage."""
    architecture: Architecture
    """Family and shape of the model."""
    steps: int = Field(ge=1)
    """Optimizer updates of the whole training, for the learning rate schedule."""
    target: TargetDevices
    """The devices."""


class Collective(Spec):
    """Operations of one kind that exchange data between devices."""

    count: int
    """Operations in the program; one in a loop counts once."""
    size_bytes: int
    """Bytes of their results on one device."""


class CompiledStep(Spec):
    """What the compiler reports about one device's program."""

    argument_bytes: int
    """Model, optimizer state and batch."""
    temp_bytes: int | None = None
    """Memory of everything that the step computes in between; null if the compiler refused the
    program because it needs too much memory."""
    output_bytes: int | None = None
    """Results, most of which take the place of arguments."""
    alias_bytes: int | None = None
    """Part of `output_bytes` that takes the place of arguments."""
    code_bytes: int | None = None
    """The program itself."""
    peak_bytes: int
    """Largest memory in use at any moment of the step."""
    refused: str | None = None
    """The compiler's words if the program needs too much memory; null if it was compiled."""
    compiler_flops: float | None = None
    """Floating point operations as the compiler counts them: one pass of each loop."""
    compiler_bytes: float | None = None
    """Bytes read and written as the compiler counts them: one pass of each loop."""
    collectives: dict[str, Collective] = Field(default={})
    """Operations that exchange data between devices, by kind."""
    lower_seconds: float
    """Time to build the program."""
    compile_seconds: float
    """Time to compile it."""
    versions: dict[str, str]
    """Packages that determine the result."""

    @property
    def required_bytes(self) -> int:
        """Memory that must be free to run the program."""
        if self.temp_bytes is None:
            return self.peak_bytes
        own = (self.output_bytes or 0) - (self.alias_bytes or 0)
        return max(self.peak_bytes, self.argument_bytes + own + self.temp_bytes)
