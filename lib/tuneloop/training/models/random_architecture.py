"""Architecture of a model with random weights, from its shape in a spec, without JAX."""

from __future__ import annotations

from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.specs.training.model import RandomModelSpec

LOCAL_ROPE_BASE = 10_000
GLOBAL_ROPE_BASE = 1_000_000


def random_architecture(spec: RandomModelSpec, vocab_size: int) -> Architecture:
    """Return the architecture of a model with random weights.

    Args:
        spec: the model's shape.
        vocab_size: rows of the embedding; must be the tokenizer's piece count, because a larger
            model can sample ids that the tokenizer cannot decode.

    Returns:
        A text-only architecture. Layers follow Gemma 3's pattern (five local, one global), cut to
        `num_layers`.
    """
    shape = spec.model_dump(exclude={"kind"})
    pattern = ("sliding",) * 5 + ("full",)
    return Architecture(
        **shape,
        vocab_size=vocab_size,
        rope=Rope(theta=GLOBAL_ROPE_BASE),
        local_rope=Rope(theta=LOCAL_ROPE_BASE),
        layer_types=tuple(pattern[layer % len(pattern)] for layer in range(spec.num_layers)),
        query_scalar=float(spec.head_dim),
    )
