"""A tiny model with adapters, and its logits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod, QloraMethod
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.training.models.lora.apply import apply_lora, lora_items
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model

SHAPE = RandomModelSpec(
    num_layers=2, embed_dim=32, hidden_dim=64, num_heads=4, num_kv_heads=2, head_dim=16
)
ARCHITECTURE = random_architecture(SHAPE, 64)
LORA = LoraMethod(kind="lora", rank=4, alpha=8.0)
NF4 = QloraMethod(kind="qlora", rank=4, alpha=8.0)
INT8 = QloraMethod(kind="qlora", rank=4, alpha=8.0, quantization="int8")
IDS = np.arange(1, 25, dtype=np.int32).reshape(2, 12)


def build(architecture: Architecture = ARCHITECTURE, dtype: Any = jnp.float32) -> Any:
    """Build a model with random weights."""
    model = build_random_model(architecture, 0)
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        variable.set_value(variable.get_value().astype(dtype))
    return model


def adapted(base: Any, method: LoraMethod = LORA, architecture: Architecture = ARCHITECTURE) -> Any:
    """Add adapters whose B is not zero, as if they had been trained."""
    model = apply_lora(base, architecture, method, 0)
    rng = np.random.default_rng(0)
    for path, variable in lora_items(model):
        if path[-1].endswith("_lora_b"):
            variable.set_value(jnp.array(rng.standard_normal(variable.shape, np.float32) * 0.1))
    return model


def raw_logits(model: Any) -> Any:
    """Compute the logits of IDS in the model's own dtype; call it within jit."""
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)
    mask = jnp.tril(jnp.ones((len(IDS), IDS.shape[1], IDS.shape[1]), bool))
    return model(jnp.array(IDS), positions, None, mask)[0]


@nnx.jit  # type: ignore[untyped-decorator]
def logits(model: Any) -> Any:
    """Compute the logits of IDS."""
    return raw_logits(model)
