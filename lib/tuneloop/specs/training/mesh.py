"""How the devices of a training share the model and the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from tuneloop.errors import SpecError
from tuneloop.specs.base import Spec
from tuneloop.specs.training.architecture import Architecture


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

    def check_rows(self, batch_size: int, parts: int = 1) -> None:
        """Check that rows divide evenly; Tunix would silently copy uneven batches.

        Args:
            batch_size: rows of a batch.
            parts: number of parts that a batch is computed in.

        Raises:
            SpecError: the rows of a part are not a multiple of `row_shares`.
        """
        if batch_size % (self.row_shares * parts):
            in_parts = f" in {parts} parts (accumulation_steps)" if parts > 1 else ""
            raise SpecError(
                f"train.batch_size: {batch_size} rows{in_parts} do not divide evenly among"
                f" {self.row_shares} devices; choose a multiple of {self.row_shares * parts}"
            )

    def check_architecture(self, architecture: Architecture) -> None:
        """Check that `tp` divides what it splits; otherwise devices would repeat each other's work.

        A single key/value head is copied to every device, so that it does not limit `tp`.

        Args:
            architecture: family and shape of the model.

        Raises:
            SpecError: `tp` does not divide the heads or the widths of the model.
        """
        split = {
            "query heads": architecture.num_heads,
            "key/value heads": architecture.num_kv_heads,
            "as the width of its embeddings (embed_dim)": architecture.embed_dim,
            "as the width of its feed-forward layers (hidden_dim)": architecture.hidden_dim,
        }
        if architecture.num_kv_heads == 1:
            del split["key/value heads"]
        uneven = next((name for name, size in split.items() if size % self.tp), None)
        if uneven is not None:
            most = math.gcd(*split.values())
            choices = [str(tp) for tp in range(1, min(most, self.tp) + 1) if most % tp == 0]
            raise SpecError(
                f"train.mesh.tp: {self.tp} does not divide the model, which has {split[uneven]}"
                f" {uneven}; choose {' or '.join(choices)}"
            )


class MeshSpec(Spec):
    """How the devices of a training share the model and the batch, as a mesh of three axes.

    The product of the three sizes must be the number of devices.
    """

    data: int | None = Field(default=None, ge=1)
    """Copies of the model, each of which computes its own rows of a batch; null means one for each
    TPU slice, and otherwise one."""
    fsdp: int | None = Field(default=None, ge=1)
    """Devices that share a copy: each holds a part of every weight and of its optimizer state, and
    computes its own rows. Null means all devices that `data` and `tp` leave."""
    tp: int = Field(default=1, ge=1)
    """Devices that share the computation of the same rows (tensor parallelism). It must divide the
    model's query heads, its key/value heads unless it has only one, and the widths of its
    embeddings and feed-forward layers."""

    def sizes(self, devices: int, slices: int = 1) -> MeshSizes:
        """Resolve the sizes for a number of devices; on one device a mesh has no effect.

        Args:
            devices: devices of all slices.
            slices: TPU slices.

        Raises:
            SpecError: the sizes do not multiply to the number of devices.
        """
        if devices == 1:
            return MeshSizes()
        data = self.data or slices
        fsdp = self.fsdp or max(1, devices // (data * self.tp))
        sizes = MeshSizes(data, fsdp, self.tp)
        if sizes.devices != devices:
            raise SpecError(
                f"train.mesh: data {data} x fsdp {fsdp} x tp {self.tp} are {sizes.devices} devices,"
                f" expected {devices}; leave fsdp out, or choose sizes whose product is {devices}"
            )
        return sizes
