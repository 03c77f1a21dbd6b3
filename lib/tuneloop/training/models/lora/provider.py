"""How an adapted layer computes: qwix's LoRA with the dtypes of PEFT, and dropout on request."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

_dropout_is_on: ContextVar[bool] = ContextVar("_dropout_is_on", default=False)


class AdapterProvider(qwix.LoraProvider):  # type: ignore[misc]  # qwix is untyped
    """Adds `alpha / rank * B A x` to the output of the layers that have an adapter.

    Two things differ from qwix. The sum returns to the dtype of the layer without adapter: with
    float32 adapters in a bfloat16 model, qwix would compute all following layers in float32. And
    dropout acts only within `adapter_dropout`, so that validation and generation have none.
    """

    def dot_general(
        self,
        lhs: Any,
        rhs: Any,
        dimension_numbers: Any,
        precision: Any = None,
        preferred_element_type: Any = None,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Compute `jax.lax.dot_general`, with the adapter's share for an adapted weight."""
        out: jax.Array = super().dot_general(
            lhs, rhs, dimension_numbers, precision, preferred_element_type, out_sharding
        )
        return out.astype(preferred_element_type or jnp.result_type(lhs.dtype, rhs.dtype))

    def einsum(self, einsum_str: str, *operands: Any, **kwargs: Any) -> jax.Array:
        """Compute `jax.numpy.einsum`, with the adapter's share for an adapted weight."""
        out: jax.Array = super().einsum(einsum_str, *operands, **kwargs)
        dtypes = [operand.dtype for operand in operands]
        return out.astype(kwargs.get("preferred_element_type") or jnp.result_type(*dtypes))

    def _get_current_rule_and_op_id(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        rule, op_id = super()._get_current_rule_and_op_id(*args, **kwargs)
        if isinstance(rule, qwix.LoraRule) and not _dropout_is_on.get():
            rule = dataclasses.replace(rule, dropout=0.0)
        return rule, op_id


@contextmanager
def adapter_dropout(model: nnx.Module, key: jax.Array) -> Iterator[None]:
    """Turn on the dropout of a model's adapters; usable inside jit and gradients.

    Args:
        model: a model from `apply_lora`; one without dropout or adapters computes as before.
        key: random key; the same key drops the same inputs, so a key that is made of the run's
            seed and the step number makes a resumed run equal to an undisturbed one.
    """
    if not hasattr(model, "qwix_rngs"):
        yield
        return
    model.set_attributes(qwix_rngs=nnx.Rngs(dropout=key))
    token = _dropout_is_on.set(True)
    try:
        yield
    finally:
        _dropout_is_on.reset(token)
        model.set_attributes(qwix_rngs=None)
