"""Scale of the queries as `query_pre_attn_scalar` asks for it.

Tunix's Gemma 2 always scales by the head dimension, and its Gemma 3 by that or by the embedding's
share of a head. Other values are wrong without a warning, for example those of Gemma 2 27B.
"""

from __future__ import annotations

import functools
from typing import Any

from tuneloop.training.models.patches.classes import set_class, subclass


def set_query_scalar(attention: Any, scalar: float) -> None:
    """Make one attention module multiply its queries by `scalar ** -0.5`."""
    base: Any = type(attention)
    set_class(attention, _attention_class(base, scalar))


@functools.cache
def _attention_class(base: Any, scalar: float) -> type:
    if hasattr(base, "query_pre_attn_scalar"):  # Gemma 3
        return subclass(base, query_pre_attn_scalar=scalar**-0.5)
    # Gemma 2 reads this property for the scale and for RoPE; `set_attention_rope` ignores it.
    return subclass(base, head_dim=scalar)
