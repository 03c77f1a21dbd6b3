"""The mesh in closed form equals the one that training builds."""

from __future__ import annotations

from typing import Any

import pytest

from tuneloop.errors import SpecError
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.specs.training.mesh import MeshSizes
from tuneloop.specs.training.train import TrainSpec


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


def model(**changes: int) -> Architecture:
    sizes = {"num_heads": 8, "num_kv_heads": 4, "embed_dim": 64, "hidden_dim": 128, **changes}
    return Architecture(
        family="llama3", num_layers=1, head_dim=8, vocab_size=64, rope=Rope(theta=1e4), **sizes
    )


@pytest.mark.parametrize(
    ("tp", "changes"),
    [
        (1, {"num_heads": 3, "num_kv_heads": 3, "embed_dim": 7, "hidden_dim": 5}),
        (4, {}),
        (8, {"num_kv_heads": 1}),  # the only one is copied to every device
    ],
)
def test_tp_that_divides_the_model_is_accepted(tp: int, changes: dict[str, int]) -> None:
    assert spec(mesh={"tp": tp}).mesh_sizes(8, architecture=model(**changes)).tp == tp


@pytest.mark.parametrize(
    ("tp", "changes", "message"),
    [
        (8, {"num_heads": 12}, "which has 12 query heads; choose 1 or 2 or 4$"),
        (8, {}, r"train.mesh.tp: 8 does not divide the model, which has 4 key/value heads; choose"),
        (2, {"embed_dim": 63}, r"which has 63 as the width of its embeddings \(embed_dim\); .* 1$"),
        (4, {"hidden_dim": 6}, r"6 as the width of its feed-forward layers .*; choose 1 or 2$"),
    ],
)
def test_tp_that_does_not_divide_the_model_is_refused(
    tp: int, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        spec(mesh={"tp": tp}).mesh_sizes(8, architecture=model(**changes))
