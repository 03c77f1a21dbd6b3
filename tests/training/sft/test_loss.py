from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import pytest

from tuneloop.training.sft import loss


def test_loss_is_the_mean_over_masked_targets() -> None:
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]]))

    def model(tokens: Any, positions: Any, cache: Any, mask: Any) -> tuple[Any, None]:
        return logits, None

    tokens = jnp.array([[1, 2, 1]])
    value = loss.response_loss(
        model,
        tokens,
        input_mask=jnp.array([[False, True, True]]),
        positions=None,  # type: ignore[arg-type]
        attention_mask=None,  # type: ignore[arg-type]
    )
    # Position 0 predicts token 2 with 0.25, position 1 predicts token 1 with 0.8.
    assert float(value) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2, rel=1e-5)
    only_last = loss.response_loss(
        model,
        tokens,
        input_mask=jnp.array([[False, False, True]]),
        positions=None,  # type: ignore[arg-type]
        attention_mask=None,  # type: ignore[arg-type]
    )
    assert float(only_last) == pytest.approx(-math.log(0.8), rel=1e-5)
