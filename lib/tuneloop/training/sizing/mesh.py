"""How many devices share the model and the batch, as `step/mesh.py` arranges them."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.errors import SpecError
from tuneloop.specs.training import TrainSpec


@dataclass(frozen=True)
class MeshSizes:
    """Sizes of the axes of a mesh; their product is the number of devices."""

    data: int = 1
    """Copies of the model."""
    fsdp: int = 1
    """Devices that share a copy and compute rows of their own."""
    tp: int = 1
    """Devices that share the computation of the same rows."""

    @property
    def devices(self) -> int:
        """All devices."""
        return self.data * self.fsdp * self.tp

    @property
    def row_shares(self) -> int:
        """Parts that the rows of a batch are split into."""
        return self.data * self.fsdp

    @property
    def weight_shares(self) -> int:
        """Parts that each weight and its optimizer state are split into."""
        return self.fsdp * self.tp


def mesh_sizes(train: TrainSpec, devices: int, slices: int = 1) -> MeshSizes:
    """Resolve `train.mesh` for a number of devices.

    Args:
        train: its mesh, batch size and accumulation steps.
        devices: devices of all slices.
        slices: TPU slices.

    Raises:
        SpecError: the sizes do not multiply to the number of devices, or the batch does not divide
            evenly.
    """
    if devices == 1:
        return MeshSizes()
    mesh = train.mesh
    data = mesh.data or slices
    fsdp = mesh.fsdp or max(1, devices // (data * mesh.tp))
    sizes = MeshSizes(data, fsdp, mesh.tp)
    if data * fsdp * mesh.tp != devices:
        raise SpecError(
            f"train.mesh: data {data} x fsdp {fsdp} x tp {mesh.tp} are {data * fsdp * mesh.tp}"
            f" devices, expected {devices}; leave fsdp out, or choose sizes whose product is"
            f" {devices}"
        )
    needed = sizes.row_shares * train.accumulation_steps
    if train.batch_size % needed:
        parts = train.accumulation_steps
        in_parts = f" in {parts} parts (accumulation_steps)" if parts > 1 else ""
        raise SpecError(
            f"train.batch_size: {train.batch_size} rows{in_parts} do not divide evenly among"
            f" {sizes.row_shares} devices; choose a multiple of {needed}"
        )
    return sizes
