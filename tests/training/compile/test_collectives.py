"""Counting operations that exchange data, in the text of a compiled program."""

from __future__ import annotations

from tuneloop.specs.training.compilation import Collective
from tuneloop.training.compile.collectives import count_collectives

TEXT = """
HloModule jit_update, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

  %all-gather.1 = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups=[1,8]<=[8]
  %all-reduce-start.3 = (f32[4]{0}, f32[4]{0}) all-reduce-start(%a, %b), channel_id=1
  %all-reduce-done.3 = (f32[4]{0}, f32[4]{0}) all-reduce-done(%all-reduce-start.3)
  %ag = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%y), dimensions={0}
  ROOT %done = f32[16,4]{1,0} all-gather-done(%ag)
  %permuted = u4[64]{0} collective-permute(%z), source_target_pairs={{0,1}}
  %name = f32[8]{0} fusion(%all-gather.1), kind=kLoop, calls=%all-reduce.clone
"""


def test_each_operation_counts_once_with_its_result() -> None:
    assert count_collectives(TEXT) == {
        "all-gather": Collective(count=2, size_bytes=16 * 128 * 2 + 16 * 4 * 4),
        "all-reduce": Collective(count=1, size_bytes=4 * 4),
        "collective-permute": Collective(count=1, size_bytes=32),
    }


def test_a_program_of_one_device_has_none() -> None:
    assert count_collectives("  %x = f32[8]{0} add(%a, %b)") == {}
