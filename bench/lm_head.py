"""CPU seconds of the loss and its gradients; compared with logits of all positions.

Four fifths of every row are a prompt, which has no targets. The head has the shape of
SmolLM2-135M's. The rival projects every position and calls optax's cross entropy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figure import print_figure, sized

from tuneloop.training.models.head import Head
from tuneloop.training.step.cross_entropy import summed_cross_entropy

ROWS, LENGTH, WIDTH, PIECES = 4, sized(256, 20), sized(576, 8), sized(49_152, 64)
ROUNDS = sized(5, 1)


def ours(hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
    """Compute the loss that training uses."""
    return summed_cross_entropy(hidden, Head(weight, True, None), targets, mask)


def whole(hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
    """Compute the loss from the logits of all positions."""
    logits = (hidden @ weight.T).astype(jnp.float32)
    return (optax.softmax_cross_entropy_with_integer_labels(logits, targets) * mask).sum()


def seconds(compiled: Callable[..., Any], given: tuple[Any, ...]) -> float:
    """Return the CPU seconds of one call, over all threads."""
    since = time.process_time()
    _, gradients = compiled(*given)
    gradients[1].block_until_ready()
    return time.process_time() - since


def main() -> None:
    """Measure both alternately and print medians."""
    draw = np.random.default_rng(0)
    given = (
        jnp.array(draw.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32),
        jnp.array(draw.normal(size=(PIECES, WIDTH)) / 24, jnp.float32),
        jnp.array(draw.integers(0, PIECES, (ROWS, LENGTH))),
        jnp.broadcast_to(jnp.arange(LENGTH) >= LENGTH * 4 // 5, (ROWS, LENGTH)),
    )
    mine, rival = (jax.jit(jax.value_and_grad(each, (0, 1))) for each in (ours, whole))
    found, expected = mine(*given), rival(*given)  # compiles both
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    print_figure(
        "lm_head", "s", [(seconds(mine, given), seconds(rival, given)) for _ in range(ROUNDS)]
    )


if __name__ == "__main__":
    main()
