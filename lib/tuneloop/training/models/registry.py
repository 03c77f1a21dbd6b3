"""The table of model families: from an architecture's `family` to the code that builds it.

To add a family, add a module with the functions of `FamilyModule` to this package, and a row to
`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tuneloop.specs.architecture import Architecture
from tuneloop.validation import look_up


class FamilyModule(Protocol):
    """Functions that the module of every family has."""

    def build_model(self, architecture: Architecture, seed: int) -> Any:
        """Build a model with random weights drawn from the seed."""

    def build_model_from_params(
        self, architecture: Architecture, params: Mapping[str, np.ndarray]
    ) -> Any:
        """Build a model with the given weights; raises DataError if they do not match."""


@dataclass(frozen=True)
class ModelFamily:
    """One row of the table of model families."""

    module: Callable[[], FamilyModule]
    """Import the family's module. JAX is imported by this call and not with the table."""
    chat_template: str
    """Key in `chat_templates.CHAT_TEMPLATES`; used for models that bring no template."""
    lora_targets: tuple[str, ...]
    """Names of the submodules that LoRA adapts, as they appear in parameter names."""


def _gemma3() -> FamilyModule:
    from tuneloop.training.models import gemma3

    return gemma3


FAMILIES: dict[str, ModelFamily] = {
    "gemma3": ModelFamily(
        module=_gemma3,
        chat_template="gemma3",
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
"""Model families by name."""


def family_named(name: str) -> ModelFamily:
    """Look up a model family.

    Raises:
        SpecError: the family is unknown; the message lists the known families.
    """
    return look_up(FAMILIES, name, "model family")
