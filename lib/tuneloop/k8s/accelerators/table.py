"""The accelerator table as operators write it: YAML, typed, every error with its line.

One rule: what differs by accelerator is a value here, never a branch in code.
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

from tuneloop.yaml_in import load_model

PLACEHOLDERS = ("topology", "hosts", "slices", "chips_per_host", "value")
"""Names that a value of the table may hold as `${name}`."""

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
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*([KMGT]i?)?$")]


class Table(BaseModel):
    """Base of every part of the table: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Toleration(Table):
    """A taint that the pods put up with."""

    key: str
    """The taint's key."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the taint's value has to be the same."""
    value: Text | None = None
    """The taint's value; null with Exists."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """The taint's effect."""

    @model_validator(mode="after")
    def _value_fits(self) -> Toleration:
        if (self.operator == "Exists") == (self.value is not None):
            raise ValueError("expected a value with operator Equal and none with Exists")
        return self


class Parts(Table):
    """What any level of the table may add to pods; a later level wins on the same key."""

    node_selector: dict[str, Text] = {}
    """Labels that a node must have."""
    tolerations: list[Toleration] = []
    """Taints that the pods put up with."""
    env: dict[str, Text] = {}
    """Environment of the main container."""
    pod_annotations: dict[str, Text] = {}
    """Annotations of the pod template."""
    jobset_annotations: dict[str, Text] = {}
    """Annotations of the JobSet."""


class Level(Parts):
    """A kind, family or machine: parts, and the options that it does not take."""

    refuses: list[OptionName] = []
    """Options of a run spec that cannot be had here."""


class Common(Parts):
    """What every pod gets."""

    termination_grace_period_seconds: int = Field(ge=1)
    """Seconds between SIGTERM and SIGKILL."""


class Option(Parts):
    """What one option of a run spec adds."""

    termination_grace_period_seconds: int | None = Field(default=None, ge=1)
    """Replaces the common one where it is given."""


class LargerRule(Table):
    """Topologies beyond the listed ones: equal cubes, smallest side first."""

    above_chips: int = Field(ge=1)
    """Up to this many chips only listed topologies exist."""
    multiple_of: int = Field(ge=1)
    """Every dimension is a multiple of this."""
    at_most: Topology
    """No dimension is above the one at its place here."""

    def allows(self, topology: str) -> bool:
        """Say whether a topology that is not listed can be made."""
        sides, limits = dimensions(topology), dimensions(self.at_most)
        return (
            len(sides) == len(limits)
            and math.prod(sides) > self.above_chips
            and sides == sorted(sides)
            and all(side % self.multiple_of == 0 for side in sides)
            and all(side <= limit for side, limit in zip(sides, limits, strict=True))
        )


class TpuMachine(Level):
    """A VM with TPU chips and the topologies that GKE builds of it."""

    machine: str
    """Machine type, for people; GKE chooses it by accelerator, topology and chips."""
    chips_per_host: int = Field(ge=1)
    """Chips of one VM; a pod asks for all of them."""
    topologies: list[Topology] = Field(min_length=1)
    """Arrangements of chips, for instance 2x4 or 4x4x8."""
    larger: LargerRule | None = None
    """Which others can be made; null: none."""

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
    """Machine type, for people; GKE chooses it by accelerator and number of GPUs."""
    gpus: int = Field(ge=1)
    """GPUs of one VM; a pod asks for all of them."""
    max_nodes: int = Field(default=1, ge=1, le=1000)
    """Nodes that one gang may have; 1: no gangs."""


class Family(Level):
    """What the chips of one row have in common."""

    hbm_gb_per_chip: int = Field(ge=1)
    """Memory of one chip in GB."""
    devices_per_chip: int = Field(default=1, ge=1)
    """JAX devices that one chip shows as."""
    arch: Literal["amd64", "arm64"] = "amd64"
    """Processor of the hosts: the image must be built for it."""


class TpuFamily(Family):
    """One TPU generation under one value of the accelerator label."""

    machines: list[TpuMachine] = Field(min_length=1)
    """The VMs it comes in."""


class GpuFamily(Family):
    """One GPU model."""

    machines: list[GpuMachine] = Field(min_length=1)
    """The VMs it comes in."""


class Kind(Level):
    """What all shapes of a kind have in common."""

    resource: str | None = None
    """Extended resource that counts the chips; null: none."""
    dev_shm_size: Quantity | None = None
    """Limit of the memory volume at /dev/shm; null: no volume."""
    max_slices: int = Field(default=1, ge=1)
    """Slices that one run may join; 1: no multislice."""
    gang: Parts = Parts()
    """Added when there is more than one host."""
    gang_in_topology: Parts = Parts()
    """Added instead of `gang` when Kueue places the pods by topology."""


class TpuKind(Kind):
    """All TPUs."""

    families: dict[Name, TpuFamily] = Field(min_length=1)
    """Rows by the first part of their shape keys."""


class GpuKind(Kind):
    """All GPUs."""

    families: dict[Name, GpuFamily] = Field(min_length=1)
    """Rows by the first part of their shape keys."""


class AcceleratorTable(Table):
    """The whole file."""

    common: Common
    """For every pod."""
    cpu: Kind
    """Pods without an accelerator."""
    tpu: TpuKind
    """Cloud TPUs."""
    gpu: GpuKind
    """NVIDIA GPUs."""
    options: dict[OptionName, Option]
    """What a run spec may ask for beside the shape."""

    @model_validator(mode="after")
    def _names_are_one_kind(self) -> AcceleratorTable:
        names = ["cpu", *self.tpu.families, *self.gpu.families]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"family {twice[0]} stands twice, expected it under one kind only")
        return self


def dimensions(topology: str) -> list[int]:
    """Split `2x2x4` into its sides."""
    return [int(side) for side in topology.split("x")]


def read_table(data: bytes, place: str) -> AcceleratorTable:
    """Parse and validate the table.

    Args:
        data: the file's bytes.
        place: path or URL of the file, for errors.

    Raises:
        SpecError: it is not YAML, a key is unknown, given twice or missing, or a value is wrong.
    """
    return load_model(AcceleratorTable, data, place, "an accelerator table")
