"""What is fixed when attention is compiled."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax.sharding import Mesh


@dataclass(frozen=True)
class AttentionOptions:
    """Devices that attention is compiled for, and what the rows of a batch look like."""

    platform: str = "cpu"
    """Platform of the devices: `cpu`, `gpu` or `tpu`."""
    mesh: Mesh | None = None
    """Devices that the rows and the heads are split over; None for one device."""
    is_packed: bool = True
    """Whether a row may hold several segments. If not, a row is one segment with padding at its
    end, and the causal mask alone keeps its tokens from seeing the padding."""
    compute_capability: float = 0.0
    """Compute capability of the GPUs, such as 9.0 for an H100; 0 on other platforms."""


def attention_options(mesh: Mesh | None, *, is_packed: bool) -> AttentionOptions:
    """Return the options for the devices of a mesh, or for this process's default device.

    Args:
        mesh: devices that train together, which need not be devices of this machine; None for one
            device.
        is_packed: whether a row may hold several segments.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    capability = float(getattr(device, "compute_capability", 0) or 0)
    return AttentionOptions(device.platform, mesh, is_packed, capability)
