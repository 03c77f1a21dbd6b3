"""The table of model families: from a model spec's `kind` to the code that builds such models.

To add a family, add its spec class to `specs/model.py`, a module with the functions of
`FamilyModule` to this package, and a row to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tuneloop.specs.model import Gemma3Spec, ModelSpecBase
from tuneloop.validation import look_up


class FamilyModule(Protocol):
    """Functions that the module of every family has; `spec` is an instance of its spec class."""

    def build_config(self, spec: Any, vocab_size: int) -> Any:
        """Build the model library's own configuration from the spec."""

    def build_model(self, spec: Any, vocab_size: int, seed: int) -> Any:
        """Build a model with random weights drawn from the seed."""

    def build_model_from_params(
        self, spec: Any, vocab_size: int, params: Mapping[str, np.ndarray]
    ) -> Any:
        """Build a model with the given weights; raises DataError if they do not match the spec."""

    def cache_shape(self, spec: Any) -> tuple[int, int, int]:
        """Return (num_layers, num_kv_heads, head_dim) of the key-value cache."""


@dataclass(frozen=True)
class ModelFamily:
    """One row of the table of model families."""

    spec_class: type[ModelSpecBase]
    """Spec class of the family; its `kind` is the key of this row."""
    module: Callable[[], FamilyModule]
    """Import the family's module. JAX is imported by this call and not with the table."""
    lora_targets: tuple[str, ...]
    """Names of the submodules that LoRA adapts, as they appear in parameter names."""

    @property
    def chat_template(self) -> str:
        """Return the family's key in `chat_templates.CHAT_TEMPLATES`."""
        return self.spec_class.chat_template


def _gemma3() -> FamilyModule:
    from tuneloop.training.models import gemma3

    return gemma3


FAMILIES: dict[str, ModelFamily] = {
    "gemma3": ModelFamily(
        spec_class=Gemma3Spec,
        module=_gemma3,
        lora_targets=(
            "q_einsum",
            "kv_einsum",
            # Replaces the two above in models where every head has its own keys and values.
            "qkv_einsum",
            "attn_vec_einsum",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
    ),
}
"""Model families by the `kind` of their spec."""


def family_named(kind: str) -> ModelFamily:
    """Look up a model family by the `kind` of its spec.

    Raises:
        SpecError: the kind is unknown; the message lists the known kinds.
    """
    return look_up(FAMILIES, kind, "model kind")
