"""Compare a model with a reference that another program computed.

A reference is an npz file with `ids` (int, (batch, length)), `logits` (float32, (batch, length,
vocabulary)) and `gen`: the first 12 ids of the first row and their greedy continuation.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.training.models.hf_writer import host_array
from tuneloop.validation import shorten

TOLERANCE = 2e-5
"""Largest difference of logits that float32 arithmetic in another order explains."""
PROMPT_TOKENS = 12


@dataclass(frozen=True)
class Reference:
    """Inputs and outputs that another program computed."""

    ids: np.ndarray
    """int32 (batch, length)."""
    logits: np.ndarray
    """float32 (batch, length, vocabulary)."""
    generated: np.ndarray
    """int32 (prompt + new tokens,): a prompt of 12 tokens and its greedy continuation."""


@dataclass(frozen=True)
class CheckResult:
    """How far a model is from a reference."""

    max_difference: float
    """Largest absolute difference of two logits."""
    logits_std: float
    """Standard deviation of the reference's logits, to judge the difference by."""
    greedy_equal: int
    """Number of greedy tokens that are equal before the first one that differs."""
    greedy_tokens: int
    """Number of greedy tokens in the reference."""

    @property
    def passed(self) -> bool:
        """Whether the model computes the same function."""
        return self.max_difference <= TOLERANCE and self.greedy_equal == self.greedy_tokens


def load_reference(url: str) -> Reference:
    """Read a reference.

    Raises:
        DataError: it is missing or malformed.
    """
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise DataError(f"{url}: missing, expected a reference (npz); correct the path") from e
    try:
        with np.load(io.BytesIO(data)) as arrays:
            ids, logits, generated = (arrays[name] for name in ("ids", "logits", "gen"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as e:
        raise DataError(
            f"{url}: {shorten(str(e))}, expected an npz file with ids, logits and gen; make the"
            " reference again"
        ) from e
    generated = np.atleast_2d(generated)[0]
    if ids.ndim != 2 or logits.shape[:2] != ids.shape or generated.size <= PROMPT_TOKENS:
        raise DataError(
            f"{url}: ids is {ids.shape}, logits {logits.shape} and gen {generated.shape}, expected"
            f" (batch, length), (batch, length, vocabulary) and more than {PROMPT_TOKENS} ids; make"
            " the reference again"
        )
    return Reference(
        ids.astype(np.int32), logits.astype(np.float32, copy=False), generated.astype(np.int32)
    )


def check_model(model: Any, reference: Reference, place: str) -> CheckResult:
    """Compare logits and greedy tokens, at the highest precision of matrix products.

    Args:
        model: a model of any family, with float32 parameters.
        reference: what another program computed.
        place: name of the model, for error messages.

    Raises:
        DataError: the reference is of a model with another vocabulary.
    """
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(compute_logits(model, reference.ids), np.float32)
        if ours.shape != reference.logits.shape:
            raise DataError(
                f"{place}: has {ours.shape[-1]} logits per token, but the reference"
                f" {reference.logits.shape[-1]}, expected a reference of the same model; make it"
                " again"
            )
        greedy = continue_greedily(model, reference.generated)
    equal = np.equal(greedy, reference.generated[PROMPT_TOKENS:])
    return CheckResult(
        max_difference=float(np.abs(ours - reference.logits).max()),
        logits_std=float(reference.logits.std()),
        greedy_equal=int(equal.size if equal.all() else equal.argmin()),
        greedy_tokens=int(equal.size),
    )


def continue_greedily(model: Any, generated: np.ndarray) -> np.ndarray:
    """Continue the first 12 ids of `generated` up to its length, without a cache.

    Returns:
        int32 (length - 12,): the new ids.
    """
    # One shape for all steps, so that one program is compiled; causal attention does not see the
    # zeros after the present token.
    ids = np.zeros((1, generated.size), np.int32)
    ids[0, :PROMPT_TOKENS] = generated[:PROMPT_TOKENS]
    for place in range(PROMPT_TOKENS, generated.size):
        ids[0, place] = host_array(compute_logits(model, ids)[0, place - 1]).argmax()
    return ids[0, PROMPT_TOKENS:]


def _full_rows(model: Any, ids: Any) -> Any:
    """Compute logits of full rows: (batch, length, vocabulary)."""
    batch, length = ids.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    causal = jnp.tril(jnp.ones((length, length), bool))
    return model(ids, positions, None, jnp.broadcast_to(causal, (batch, length, length)))[0]


compute_logits: Callable[[Any, Any], Any] = nnx.jit(_full_rows)
"""(model, int32 (batch, length)) -> logits (batch, length, vocabulary), compiled."""
