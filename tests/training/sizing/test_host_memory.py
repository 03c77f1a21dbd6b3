from __future__ import annotations

from typing import Any

import pytest

from tests.training.compile.cells import architecture
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.host_memory import HostMemory, estimate_host_memory
from tuneloop.training.sizing.memory import estimate_memory
from tuneloop.training.sizing.parameters import embedding_size, parameter_count

WIDE = architecture("llama3", embed_dim=1536, hidden_dim=6144, num_heads=8, num_kv_heads=4)
LORA = {"kind": "lora", "rank": 4}


def estimate(devices: int = 1, per_host: int | None = None, **train: Any) -> HostMemory:
    spec = TrainSpec.model_validate({"steps": 1, "batch_size": 8, "max_length_tokens": 64, **train})
    mesh = spec.mesh_sizes(devices)
    memory = estimate_memory(spec, WIDE, mesh, "cpu" if per_host is None else "tpu")
    return estimate_host_memory(spec, WIDE, memory, mesh, devices_per_host=per_host)


def test_a_host_copies_what_its_devices_store_of_a_checkpoint() -> None:
    state = 3 * 4 * parameter_count(WIDE)
    upload = estimate(per_host=1, method=LORA).checkpoint
    assert estimate(per_host=1).checkpoint == pytest.approx(state, rel=0.3)
    one = estimate(8, 8).checkpoint
    assert estimate(8, 4).checkpoint == pytest.approx(one / 2, rel=0.3)
    # Devices with copies of the same weights do not store them again.
    copies = estimate(8, 8, mesh={"data": 8, "fsdp": 1}).checkpoint
    assert copies == pytest.approx(one, rel=0.01)
    assert upload < 0.2 * one


def test_weights_for_chips_pass_through_the_host_one_by_one() -> None:
    assert estimate(per_host=1).model == 8 * max(embedding_size(WIDE), 1536 * 6144)


@pytest.mark.parametrize("method", [{"kind": "full"}, LORA])
def test_a_cpu_holds_step_and_copies(method: dict[str, Any]) -> None:
    found = estimate(method=method)
    assert found.model > 2 * 4 * parameter_count(WIDE)
    assert found.peak_bytes == found.runtime + found.model + found.checkpoint
