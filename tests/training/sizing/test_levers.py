"""What is recommended to a step that does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.compile.cells import architecture, larger_than, target_named
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.levers import find_lever
from tuneloop.training.sizing.memory import estimate_memory

SHAPE = {
    "embed_dim": 2048,
    "hidden_dim": 8192,
    "num_layers": 16,
    "num_heads": 16,
    "head_dim": 128,
    "vocab_size": 32_768,
}


def lever(accelerator: str = "v5e-1x1", shape: Any = SHAPE, **changes: Any) -> str:
    given = {"steps": 1, "batch_size": 8, "max_length_tokens": 1024, "dtype": "bfloat16"}
    train = TrainSpec.model_validate({**given, **changes})
    target = target_named(accelerator)
    estimate = estimate_memory(
        train, architecture("llama3", **shape), train.mesh_sizes(target.devices), "tpu"
    )
    assert estimate.peak_bytes > target.chip.limit_bytes  # otherwise there is nothing to change
    larger = larger_than(accelerator)
    return find_lever(train, architecture("llama3", **shape), target, larger)


@pytest.mark.parametrize(
    ("accelerator", "changes", "expected"),
    [
        ("v6e-1x1", {"batch_size": 32}, "with train.remat: block"),
        ("v6e-1x1", {"dtype": "float32"}, "with train.remat: block"),
        ("v6e-1x1", {"batch_size": 64}, "with train.remat: decoder"),
        ("v6e-1x1", {"batch_size": 128, "remat": "decoder"}, "with train.accumulation_steps: 2"),
        (
            "v5e-1x1",
            {},
            "with train.method: {kind: lora}"
            " or with execution.cluster.train.accelerator: v5e-2x2 (4 chips)",
        ),
    ],
)
def test_the_smallest_change_that_fits_is_named(
    accelerator: str, changes: dict[str, Any], expected: str
) -> None:
    assert lever(accelerator, **changes) == f"by the estimate it fits {expected}"


def test_nothing_that_does_not_fit_is_recommended() -> None:
    larger = {**SHAPE, "num_layers": 1024, "embed_dim": 16_384}
    expected = (
        "makes it fit, nor does a larger shape that the batch divides among (up to v5e-16x16);"
        " choose a smaller model, or chips with more memory"
    )
    assert expected in lever(shape=larger)
    assert "makes it fit; choose a smaller model" in lever("l4-8", shape=larger)


def test_chips_that_the_batch_does_not_divide_among_are_not_recommended() -> None:
    """Four chips of v5e are too few, and a batch of 4 rows has no use for more."""
    wide = {**SHAPE, "embed_dim": 4096, "hidden_dim": 16_384}
    assert "accelerator" not in lever(shape=wide, batch_size=4)
    assert "accelerator: v5e-2x4-8t (8 chips)" in lever(shape=wide, batch_size=8)


def test_an_estimate_that_was_too_low_is_corrected() -> None:
    train = TrainSpec(steps=1, batch_size=8, max_length_tokens=64)
    target = target_named("v5e-1x1")
    small = architecture("llama3")
    assert find_lever(train, small, target) == "by the estimate it fits with train.remat: block"
    assert "a smaller model" in find_lever(train, small, target, correction=1e6)
