"""The table of model families: from a model spec's `kind` to the code that builds such models.

To add a family, write its spec class in `specs/model.py`, a module beside this one with the
functions of `FamilyModule`, and a row in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tuneloop.specs.model import Gemma3Spec, ModelSpecBase
from tuneloop.validation import look_up


class FamilyModule(Protocol):
    """The functions that the module of every family has; `spec` is of the family's spec class."""

    def build_config(self, spec: Any, vocab_size: int) -> Any:
        """Translate the spec into the model library's own configuration."""

    def build_model(self, spec: Any, vocab_size: int, seed: int) -> Any:
        """Build a model with every weight drawn from the seed."""

    def build_model_from_params(
        self, spec: Any, vocab_size: int, params: Mapping[str, np.ndarray]
    ) -> Any:
        """Build a model with the given weights; DataError if they do not fit."""

    def cache_shape(self, spec: Any) -> tuple[int, int, int]:
        """Return (num_layers, num_kv_heads, head_dim) of the key-value cache."""


@dataclass(frozen=True)
class ModelFamily:
    """One row of the table."""

    spec_class: type[ModelSpecBase]
    """The spec whose `kind` names this row; it also names the family's chat template."""
    module: Callable[[], FamilyModule]
    """Import the family's module. JAX is loaded by this call, not with the table."""
    lora_targets: tuple[str, ...]
    """Names of the submodules that LoRA adapts, as they appear in parameter names."""

    @property
    def chat_template(self) -> str:
        """Name of a row in `chat_templates.CHAT_TEMPLATES`."""
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
            "qkv_einsum",  # instead of the two above where every head has its own keys and values
            "attn_vec_einsum",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
    ),
}
"""Every family by the `kind` of its model spec."""


def family_named(kind: str) -> ModelFamily:
    """Look a family up; SpecError lists those that exist."""
    return look_up(FAMILIES, kind, "model kind")
