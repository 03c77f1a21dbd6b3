from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.training.models.checkpoints import tiny_config
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.step import loss


def batch(
    tokens: list[list[int]], segments: list[list[int]], targets: list[list[int]]
) -> dict[str, jax.Array]:
    return {
        "tokens": jnp.array(tokens, jnp.int32),
        "segment_ids": jnp.array(segments, jnp.int32),
        "loss_mask": jnp.array(targets, bool),
    }


def test_positions_count_from_the_start_of_a_row_with_several_segments() -> None:
    inputs = loss.model_inputs(batch([[7, 7, 7, 0, 0]], [[1, 1, 2, 0, 0]], [[0, 1, 1, 0, 0]]))
    assert inputs["positions"].tolist() == [[0, 1, 2, 3, 4]]


FIRST, SECOND = [2, 10, 11, 12, 13, 14, 15], [2, 20, 21, 22, 23]
LENGTH = 12
WINDOW = {"gemma2": {"sliding_window": 3}, "gemma3_text": {"sliding_window": 3}}

Sums = Callable[..., list[float]]


@pytest.fixture(scope="module", params=["gemma2", "gemma3_text", "llama", "qwen2", "qwen3"])
def sums(request: pytest.FixtureRequest) -> Sums:
    """Sum of the losses and number of targets of two rows, by a tiny model of each family."""
    config = tiny_config(request.param, **WINDOW.get(request.param, {}))
    model = build_random_model(parse_config(config, "config.json"), 0)

    @nnx.jit  # type: ignore[untyped-decorator]
    def compiled(model: Any, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return loss.token_losses(model, loss.model_inputs(arrays))

    def compute(*arguments: list[list[int]]) -> list[float]:
        return [float(value) for value in compiled(model, batch(*arguments))]

    return compute


def padded(row: list[int], pad: int = 0) -> list[int]:
    return row + [pad] * (LENGTH - len(row))


FIRST_TARGETS, SECOND_TARGETS = [0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1]
TWO_ROWS = (
    [padded([1] * 7), padded([1] * 5)],
    [padded(FIRST_TARGETS), padded(SECOND_TARGETS)],
)


def test_the_pad_id_does_not_change_the_loss(sums: Sums) -> None:
    zero = sums([padded(FIRST), padded(SECOND)], *TWO_ROWS)
    assert zero[1] == 7
    for pad in (2, 15):
        assert sums([padded(FIRST, pad), padded(SECOND, pad)], *TWO_ROWS) == zero


def test_two_segments_in_one_row_equal_two_rows(sums: Sums) -> None:
    """With positions that start again, Gemma 2's sliding window would be wrong."""
    apart = sums([padded(FIRST), padded(SECOND)], *TWO_ROWS)
    tokens, targets = [FIRST + SECOND, padded([])], [FIRST_TARGETS + SECOND_TARGETS, padded([])]
    together = sums(tokens, [[1] * 7 + [2] * 5, padded([])], targets)
    assert together == pytest.approx(apart, abs=2e-5)
    # Without segment ids the second example would read the first one.
    joined = sums(tokens, [[1] * 12, padded([])], targets)
    assert abs(joined[0] - apart[0]) > 1e-3
