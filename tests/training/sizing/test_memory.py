"""Memory of a training step in closed form."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.compile.cells import architecture
from tuneloop.specs.training.mesh import MeshSizes
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing import memory
from tuneloop.training.sizing.memory import MemoryEstimate, estimate_memory
from tuneloop.training.step import cross_entropy

WIDE = {"embed_dim": 1024, "hidden_dim": 4096, "vocab_size": 32_768, "num_layers": 8}
TRAIN = {"steps": 1, "batch_size": 8, "max_length_tokens": 512, "dtype": "bfloat16"}
LORA, QLORA = {"kind": "lora", "rank": 8}, {"kind": "qlora", "rank": 8}


def estimate(mesh: MeshSizes | None = None, **changes: Any) -> MemoryEstimate:
    train = TrainSpec.model_validate({**TRAIN, **changes})
    return estimate_memory(train, architecture("gemma3", **WIDE), mesh or MeshSizes(), "tpu")


def test_the_tile_of_the_head_is_that_of_the_loss() -> None:
    assert memory._TILE_PIECES == cross_entropy.TILE_PIECES


def test_the_parts_add_up() -> None:
    found = estimate()
    assert found.peak_bytes == found.argument_bytes + found.temp_bytes
    assert found.optimizer == 2 * found.weights == 4 * found.compute_copy


@pytest.mark.parametrize(
    "changes",
    [
        {"remat": "block"},
        {"remat": "decoder"},
        {"batch_size": 4},
        {"max_length_tokens": 256},
        {"accumulation_steps": 8},
        {"method": LORA},
        {"method": QLORA},
        {"optimizer": {"kind": "adafactor"}},
        {"optimizer": {"kind": "muon"}},
    ],
)
def test_what_saves_memory(changes: dict[str, Any]) -> None:
    assert estimate(**changes).peak_bytes < estimate().peak_bytes


def test_more_remat_saves_more_and_numbers_of_half_the_width_save_memory() -> None:
    peaks = [estimate(remat=remat).peak_bytes for remat in ("decoder", "block", "none")]
    assert peaks == sorted(peaks)
    assert estimate(dtype="float32").peak_bytes > estimate().peak_bytes
    assert estimate(method=QLORA).weights < estimate(method=LORA).weights


def test_devices_share_weights_along_fsdp_and_tp_and_rows_along_data_and_fsdp() -> None:
    one, copies, shares = estimate(), estimate(MeshSizes(data=8)), estimate(MeshSizes(fsdp=8))
    assert copies.weights == one.weights == 8 * shares.weights
    assert copies.activations == shares.activations == one.activations // 8
    split = estimate(MeshSizes(fsdp=2, tp=4))
    assert split.weights == shares.weights
    assert split.activations == shares.activations


def test_devices_that_do_not_divide_the_width_of_the_model_share_no_weights() -> None:
    one, uneven = estimate(), estimate(MeshSizes(fsdp=3), batch_size=6)
    assert WIDE["embed_dim"] % 3
    assert uneven.weights == one.weights
    assert uneven.activations == one.activations // 4  # two of eight rows


def test_adapters_are_on_every_device_and_frozen_weights_are_shared() -> None:
    one, shares = estimate(method=LORA), estimate(MeshSizes(fsdp=8), method=LORA)
    assert one.optimizer == shares.optimizer
    assert shares.weights < one.weights // 4
