"""Models of the accelerator table, a YAML file that operators edit; every error names its line.

All differences between accelerators are values in this table. The code has no branches per
accelerator.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from tuneloop.specs.base import Quantity
from tuneloop.specs.cluster import PodSecurity
from tuneloop.yaml_in import load_model

PLACEHOLDERS = ("topology", "hosts", "slices", "chips_per_host", "value")
"""Placeholders that values of the table may contain, as `${name}`."""

OptionName = Literal[
    "spot",
    "flex_start",
    "reservation",
    "compute_class",
    "placement_policy",
    "topology_required",
    "topology_preferred",
]

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def _check_placeholders(text: str) -> str:
    unknown = [name for name in _PLACEHOLDER.findall(text) if name not in PLACEHOLDERS]
    if unknown or "$" in _PLACEHOLDER.sub("", text):
        raise ValueError(f"expected only placeholders of {', '.join(PLACEHOLDERS)}, as ${{name}}")
    return text


Text = Annotated[str, AfterValidator(_check_placeholders)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
Topology = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}$")]


class Table(BaseModel):
    """Base class of all parts of the table: unknown keys are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Toleration(Table):
    """A node taint that the pods tolerate."""

    key: str
    """Key of the taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal` compares the taint's value with `value`; `Exists` matches any value."""
    value: Text | None = None
    """Value of the taint; must be null with `Exists`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """Effect of the taint."""

    @model_validator(mode="after")
    def _value_fits(self) -> Toleration:
        if (self.operator == "Exists") == (self.value is not None):
            raise ValueError("expected a value with operator Equal and none with Exists")
        return self


class Parts(Table):
    """Pod settings that any level of the table may add; a later level overrides the same key."""

    node_selector: dict[str, Text] = {}
    """Labels that a node must have."""
    tolerations: list[Toleration] = []
    """Node taints that the pods tolerate."""
    env: dict[str, Text] = {}
    """Environment variables of the main container."""
    pod_annotations: dict[str, Text] = {}
    """Annotations of the pod template."""
    jobset_annotations: dict[str, Text] = {}
    """Annotations of the JobSet."""


class Level(Parts):
    """A kind, family or machine: its pod settings and the options that it does not support."""

    refuses: list[OptionName] = []
    """Options of a run spec that this level does not support; using one is an error."""
    pod_security: PodSecurity | None = None
    """PodSecurity level of the pods: `restricted`, or `baseline` (root) for nodes on which devices
    belong to root; null keeps the value of the level above, and at the top `restricted`."""


class Common(Parts):
    """Settings of every pod."""

    termination_grace_period_seconds: int = Field(ge=1)
    """Seconds between SIGTERM and SIGKILL."""


class Option(Parts):
    """Settings that one option of a run spec adds."""

    termination_grace_period_seconds: int | None = Field(default=None, ge=1)
    """Seconds between SIGTERM and SIGKILL; null keeps the value of `common`.

    If several options set it, the smallest value applies.
    """


class LargerRule(Table):
    """Rule for valid topologies that are not listed; their dimensions are in ascending order."""

    above_chips: int = Field(ge=1)
    """Number of chips above which the rule applies; up to it, only listed topologies exist."""
    multiple_of: int = Field(ge=1)
    """Number that every dimension must be a multiple of."""
    at_most: Topology
    """Largest topology; no dimension may exceed the one at the same position here."""

    def allows(self, topology: str) -> bool:
        """Return whether the rule allows a topology that is not listed."""
        sides, limits = dimensions(topology), dimensions(self.at_most)
        return (
            len(sides) == len(limits)
            and math.prod(sides) > self.above_chips
            and sides == sorted(sides)
            and all(side % self.multiple_of == 0 for side in sides)
            and all(side <= limit for side, limit in zip(sides, limits, strict=True))
        )


class TpuMachine(Level):
    """A VM with TPU chips, and the topologies that GKE builds from such VMs."""

    machine: str
    """Machine type, shown to people; GKE selects it by accelerator, topology and chips."""
    chips_per_host: int = Field(ge=1)
    """Number of chips of one VM; a pod requests all of them."""
    topologies: list[Topology] = Field(min_length=1)
    """Arrangements of chips, for example 2x4 or 4x4x8."""
    larger: LargerRule | None = None
    """Rule for valid topologies that are not listed; null means that there are none."""

    @field_validator("topologies")
    @classmethod
    def _known_once(cls, topologies: list[str]) -> list[str]:
        if len(set(topologies)) < len(topologies):
            raise ValueError("expected every topology once")
        return topologies

    @model_validator(mode="after")
    def _hosts_are_whole(self) -> TpuMachine:
        for topology in self.topologies:
            if math.prod(dimensions(topology)) % self.chips_per_host:
                raise ValueError(
                    f"chips_per_host {self.chips_per_host} does not divide topology {topology}"
                )
        return self


class GpuMachine(Level):
    """A VM with GPUs."""

    machine: str
    """Machine type, shown to people; GKE selects it by accelerator and number of GPUs."""
    gpus: int = Field(ge=1)
    """Number of GPUs of one VM; a pod requests all of them."""
    max_nodes: int = Field(default=1, ge=1, le=1000)
    """Maximum number of nodes of one run; 1 means single-node only."""


class Family(Level):
    """Properties shared by all machines with the same chip."""

    hbm_gb_per_chip: int = Field(ge=1)
    """Memory of one chip in GB."""
    devices_per_chip: int = Field(default=1, ge=1)
    """Number of JAX devices that one chip appears as."""
    usable_gib_per_device: float | None = Field(default=None, gt=0)
    """Memory of one JAX device in GiB that a program can use; null means the share of its memory
    that JAX takes of a GPU."""
    cuda_gib_per_chip: float | None = Field(default=None, gt=0)
    """Memory of one GPU in GiB as CUDA reports it; null means `hbm_gb_per_chip`."""
    bf16_tflops_per_chip: float | None = Field(default=None, gt=0)
    """Published peak rate of dense bfloat16 matrix products in TFLOP/s; null if not stated."""
    hbm_gb_per_second_per_chip: float | None = Field(default=None, gt=0)
    """Published memory bandwidth in GB/s; null if not stated."""
    arch: Literal["amd64", "arm64"] = "amd64"
    """Processor architecture of the hosts; the image must be built for it."""


class TpuFamily(Family):
    """One TPU generation, which has one value of the accelerator label."""

    machines: list[TpuMachine] = Field(min_length=1)
    """VMs that have these chips."""


class GpuFamily(Family):
    """One GPU model."""

    machines: list[GpuMachine] = Field(min_length=1)
    """VMs that have these GPUs."""


class Kind(Level):
    """Settings shared by all shapes of a kind (CPU, TPU or GPU)."""

    resource: str | None = None
    """Extended resource that counts the chips; null means that pods request none."""
    dev_shm_size: Quantity | None = None
    """Size limit of the memory volume at /dev/shm; null means no such volume."""
    max_slices: int = Field(default=1, ge=1)
    """Maximum number of slices that one run may join; 1 means no multislice."""
    gang: Parts = Parts()
    """Settings that are added if the shape has more than one host."""
    gang_in_topology: Parts = Parts()
    """Settings that are added instead of `gang` if Kueue places the pods by topology."""


class TpuKind(Kind):
    """Settings of all TPUs."""

    families: dict[Name, TpuFamily] = Field(min_length=1)
    """Families by name, which is the first part of the names of their shapes."""


class GpuKind(Kind):
    """Settings of all GPUs."""

    families: dict[Name, GpuFamily] = Field(min_length=1)
    """Families by name, which is the first part of the names of their shapes."""


class AcceleratorTable(Table):
    """The complete file."""

    common: Common
    """Settings of every pod."""
    cpu: Kind
    """Settings of pods without an accelerator."""
    tpu: TpuKind
    """Settings and families of Cloud TPUs."""
    gpu: GpuKind
    """Settings and families of NVIDIA GPUs."""
    options: dict[OptionName, Option]
    """Options that a run spec may set in addition to the shape."""

    @model_validator(mode="after")
    def _names_are_one_kind(self) -> AcceleratorTable:
        names = ["cpu", *self.tpu.families, *self.gpu.families]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"family {twice[0]} is defined twice, expected it under one kind only")
        return self


def dimensions(topology: str) -> list[int]:
    """Split a topology such as `2x2x4` into its dimensions."""
    return [int(side) for side in topology.split("x")]


def read_table(data: bytes, place: str) -> AcceleratorTable:
    """Parse and validate the table.

    Args:
        data: the file's bytes.
        place: path or URL of the file, used in error messages.

    Raises:
        SpecError: the text is not YAML, a key is unknown, duplicated or missing, or a value is
            invalid.
    """
    return load_model(AcceleratorTable, data, place, "an accelerator table")
