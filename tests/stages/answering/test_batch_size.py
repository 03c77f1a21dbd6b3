"""The batch size of `auto`: from memory, and the same for all processes and attempts of a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stages.answering.test_saved import stage_in
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.stages.answering.batch_size import choose_rows, settle

GEMMA_1B = Architecture(
    family="gemma3",
    num_layers=26,
    embed_dim=1152,
    hidden_dim=6912,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    vocab_size=262_144,
    rope=Rope(theta=1_000_000),
)
GIB = 2**30


def test_more_memory_and_shorter_prompts_give_more_rows() -> None:
    def rows(gib: float, prompt: int = 512, new: int = 256) -> int:
        return choose_rows([GEMMA_1B], int(gib * GIB), prompt, new)

    found = [rows(gib) for gib in (2, 8, 16, 40, 80, 1000)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 512
    assert 8 <= rows(16) < rows(80) < 512
    assert rows(16, prompt=64) > rows(16) > rows(16, prompt=4096)
    assert rows(16, new=16) >= rows(16, new=8192) and rows(40, new=16) > rows(40, new=8192)
    small = GEMMA_1B.model_copy(update={"num_layers": 2, "vocab_size": 512})
    assert choose_rows([small, GEMMA_1B], 16 * GIB, 512, 256) == rows(16)
    assert choose_rows([GEMMA_1B], None, 512, 256) == 64


def test_the_first_choice_counts_for_all_and_a_number_is_never_changed(tmp_path: Path) -> None:
    first = stage_in(tmp_path, "a", shard_index=0, shard_count=2)
    second = stage_in(tmp_path, "b", shard_index=1, shard_count=2)
    assert settle("auto", first, lambda: 128) == 128
    assert settle("auto", second, lambda: pytest.fail("chosen twice")) == 128
    assert settle(7, second, lambda: pytest.fail("chosen")) == 7
    (path,) = tmp_path.rglob("batch_size.json")
    for damage in (
        b"",
        b"[]",
        b"{}",
        path.read_bytes().replace(b"128", b"129"),
        b'{"batch_size":0}',
    ):
        path.write_bytes(damage)
        assert settle("auto", second, lambda: 64) == 64
        assert json.loads(path.read_bytes())["batch_size"] == 64
