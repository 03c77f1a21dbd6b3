"""Real training steps compile for chips that are not there."""

from __future__ import annotations

import pytest

from tests.training.compile.cells import Cell, compile_all, need_libtpu
from tuneloop.training.sizing.memory import estimate_memory

ONE, TWO = {"num_layers": 1}, {"num_layers": 2}
"""A second layer doubles the time of the compiler. The pairs of Gemma are of both kinds."""

GROUPS = {
    "gemma": [
        Cell("gemma3", "full", "v5e-1x1", shape=ONE),
        Cell("gemma3", "full", "v5e-2x4-4t", shape=TWO),
        Cell(
            "gemma3",
            "full",
            "v5e-4x4",
            train={"accumulation_steps": 2, "batch_size": 32},
            shape=ONE,
        ),
        Cell("gemma3", "full", "v5e-4x4", slices=2, shape=ONE),
        Cell(
            "gemma3", "full", "tpu7x-2x2x1", train={"mesh": {"tp": 2}, "batch_size": 8}, shape=ONE
        ),
        Cell("gemma3", "lora", "v6e-2x2", train={"remat": "decoder"}, shape=ONE),
        Cell("gemma3", "lora", "v5p-2x2x2", slices=2, shape=ONE),
        Cell("gemma3", "qlora", "v6e-1x1", shape=ONE),
        Cell("gemma3", "qlora", "v5e-2x4-8t", shape=TWO),
        Cell("gemma2", "full", "v6e-4x4", shape=TWO),
        Cell("gemma2", "full", "v5p-2x2x1", train={"optimizer": {"kind": "adafactor"}}, shape=ONE),
        Cell("gemma2", "lora", "v5e-2x2", train={"remat": "block"}, shape=ONE),
        Cell("gemma2", "qlora", "tpu7x-2x2x1", shape=ONE),
    ],
    "others": [
        Cell("llama3", "full", "v5p-2x2x1", shape=ONE),
        Cell("llama3", "full", "v6e-4x4", slices=2, shape=TWO),
        Cell("llama3", "lora", "tpu7x-2x2x2", shape=ONE),
        Cell("llama3", "lora", "v6e-1x1", train={"dtype": "float32"}, shape=ONE),
        Cell("llama3", "qlora", "v5e-4x4", shape=ONE),
        Cell("qwen2", "full", "v5e-2x2", train={"remat": "block"}, shape=ONE),
        Cell("qwen2", "full", "tpu7x-2x2x2", slices=2, shape=ONE),
        Cell("qwen2", "lora", "v5e-1x1", shape=ONE),
        Cell("qwen2", "qlora", "v5p-2x2x2", shape=ONE),
        Cell("qwen3", "full", "tpu7x-1x1x1", shape=ONE),
        Cell("qwen3", "full", "v5e-2x4-8t", train={"optimizer": {"kind": "muon"}}, shape=ONE),
        Cell("qwen3", "lora", "v5p-2x2x2", shape=ONE),
        Cell("qwen3", "qlora", "v6e-2x2", shape=ONE),
    ],
}
"""Cells that one process compiles, so that starting it counts once."""


def test_the_cells_cover_every_combination_that_matters() -> None:
    cells = [cell for group in GROUPS.values() for cell in group]
    assert len(cells) >= 24
    families = {(cell.family, cell.method) for cell in cells}
    assert families == {
        (family, method)
        for family in ("gemma2", "gemma3", "llama3", "qwen2", "qwen3")
        for method in ("full", "lora", "qlora")
    }
    places = {(cell.accelerator.split("-")[0], _hosts(cell)) for cell in cells}
    kinds = {"one host", "several hosts", "two slices"}
    assert places == {(chip, kind) for chip in ("v5e", "v6e", "v5p", "tpu7x") for kind in kinds}


def _hosts(cell: Cell) -> str:
    target = cell.request.target
    if target.slices > 1:
        return "two slices"
    return "one host" if target.chips <= target.chips_per_host else "several hosts"


@pytest.mark.timeout(400)  # a dozen programs, each of some seconds
@pytest.mark.parametrize("group", GROUPS)
def test_a_step_compiles(group: str) -> None:
    need_libtpu()
    cells = GROUPS[group]
    for cell, found in zip(cells, compile_all([each.request for each in cells]), strict=True):
        request = cell.request
        devices = request.target.devices
        sizes = request.train.mesh_sizes(devices, request.target.slices)
        estimate = estimate_memory(request.train, request.architecture, sizes, "tpu")
        assert found.refused is None
        assert found.temp_bytes is not None
        assert found.required_bytes <= request.target.chip.limit_bytes
        # Rows of tiny arrays are padded to the width of a register.
        assert 0.9 < found.argument_bytes / estimate.argument_bytes < 4, str(cell)
        assert bool(found.collectives) == (devices > 1), str(cell)
        assert found.versions["libtpu"] == "0.0.42.1"
