"""The simplest way to generate: a call of the model on the whole row for each token, no cache."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def greedy_without_cache(model: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Generate `count` ids after each prompt; rows are padded at their end, where nobody looks."""
    length = max(map(len, prompts)) + count
    graph, state = nnx.split(model)

    @jax.jit
    def next_ids(state: Any, tokens: jax.Array, last: jax.Array) -> jax.Array:
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        logits, _ = nnx.merge(graph, state)(tokens, jnp.arange(length)[None], None, mask)
        return jnp.argmax(logits[jnp.arange(len(last)), last], axis=-1)

    tokens = np.zeros((len(prompts), length), np.int32)
    rows, lengths = np.arange(len(prompts)), np.array([len(ids) for ids in prompts])
    for row, ids in enumerate(prompts):
        tokens[row, : len(ids)] = ids
    for step in range(count):
        tokens[rows, lengths + step] = next_ids(state, tokens, lengths + step - 1)
    return [
        tokens[row, length : length + count].tolist()
        for row, length in zip(rows, lengths, strict=True)
    ]
