"""The mesh in closed form equals the one that training builds."""

from __future__ import annotations

from typing import Any

import pytest

from tuneloop.errors import SpecError
from tuneloop.specs.mesh import MeshSizes
from tuneloop.specs.training import TrainSpec


def spec(batch_size: int = 16, **changes: Any) -> TrainSpec:
    return TrainSpec(steps=1, batch_size=batch_size, max_length_tokens=8, **changes)


@pytest.mark.parametrize(
    ("mesh", "devices", "slices", "expected"),
    [
        ({}, 1, 1, MeshSizes()),
        ({"tp": 4}, 1, 1, MeshSizes()),  # without effect on one device
        ({}, 8, 1, MeshSizes(fsdp=8)),
        ({}, 8, 2, MeshSizes(data=2, fsdp=4)),
        ({"tp": 2}, 8, 1, MeshSizes(fsdp=4, tp=2)),
        ({"data": 8}, 8, 1, MeshSizes(data=8)),
    ],
)
def test_sizes_that_are_not_given_follow(
    mesh: Any, devices: int, slices: int, expected: MeshSizes
) -> None:
    assert spec(mesh=mesh).mesh_sizes(devices, slices) == expected
    assert expected.devices == devices


@pytest.mark.parametrize(
    ("given", "devices", "message"),
    [
        (spec(mesh={"tp": 3}), 8, r"data 1 x fsdp 2 x tp 3 are 6 devices, expected 8"),
        (spec(batch_size=12), 8, r"12 rows do not divide evenly among 8 devices; choose a multi"),
        (spec(accumulation_steps=4), 8, r"16 rows in 4 parts .* choose a multiple of 32"),
    ],
)
def test_what_does_not_divide_is_refused(given: TrainSpec, devices: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        given.mesh_sizes(devices)
