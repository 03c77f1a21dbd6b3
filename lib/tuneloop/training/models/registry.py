"""The table of model families: from an architecture's `family` to the code that builds it.

To add a family, add a module with the functions of `FamilyModule` to `families/`, its names to
`naming.py`, its defaults to `hf_defaults.py`, and a row to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.validation import look_up


class FamilyModule(Protocol):
    """Functions that the module of every family has."""

    def abstract_model(self, architecture: Architecture, dtype: str) -> Any:
        """Build the model with shapes instead of arrays; nothing is allocated.

        Args:
            architecture: family and shape.
            dtype: dtype of parameters and activations, such as `float32`.
        """


@dataclass(frozen=True)
class ModelFamily:
    """One row of the table of model families."""

    module: Callable[[], FamilyModule]
    """Import the family's module. JAX is imported by this call and not with the table."""
    model_type: str
    """`model_type` in a `config.json` of this family's text models."""
    hf_class: str
    """Class of transformers, an entry of `architectures` in a `config.json`."""
    default_template: str | None
    """Key in `chat_templates.CHAT_TEMPLATES`; used for models that bring no template. Null if the
    family has none."""
    lora_targets: tuple[str, ...]
    """Names of the submodules that LoRA adapts, as they appear in parameter names."""

    @property
    def chat_template(self) -> str:
        """Key of the chat template for models that bring none.

        Raises:
            DataError: the family has no such template.
        """
        if self.default_template is None:
            raise DataError(
                f"model of type {self.model_type}: has no chat template, expected chat_template in"
                " tokenizer_config.json or a file chat_template.jinja; use an instruction-tuned"
                " model"
            )
        return self.default_template


def _gemma2() -> FamilyModule:
    from tuneloop.training.models.families import gemma2

    return gemma2


def _gemma3() -> FamilyModule:
    from tuneloop.training.models.families import gemma3

    return gemma3


def _llama3() -> FamilyModule:
    from tuneloop.training.models.families import llama3

    return llama3


def _qwen2() -> FamilyModule:
    from tuneloop.training.models.families import qwen2

    return qwen2


def _qwen3() -> FamilyModule:
    from tuneloop.training.models.families import qwen3

    return qwen3


_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_QKV = "qkv_einsum"
_Q_AND_KV = ("q_einsum", "kv_einsum")
# qkv_einsum replaces the two others in models where every head has its own keys and values.
_GEMMA_TARGETS = (*_Q_AND_KV, _QKV, "attn_vec_einsum", *_FEED_FORWARD)
_SPLIT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", *_FEED_FORWARD)

FAMILIES: dict[str, ModelFamily] = {
    "gemma3": ModelFamily(
        module=_gemma3,
        model_type="gemma3_text",
        hf_class="Gemma3ForCausalLM",
        default_template="gemma3",
        lora_targets=_GEMMA_TARGETS,
    ),
    "gemma2": ModelFamily(
        module=_gemma2,
        model_type="gemma2",
        hf_class="Gemma2ForCausalLM",
        default_template="gemma2",
        lora_targets=_GEMMA_TARGETS,
    ),
    "llama3": ModelFamily(
        module=_llama3,
        model_type="llama",
        hf_class="LlamaForCausalLM",
        default_template=None,
        lora_targets=_SPLIT_TARGETS,
    ),
    "qwen2": ModelFamily(
        module=_qwen2,
        model_type="qwen2",
        hf_class="Qwen2ForCausalLM",
        default_template=None,
        lora_targets=_SPLIT_TARGETS,
    ),
    "qwen3": ModelFamily(
        module=_qwen3,
        model_type="qwen3",
        hf_class="Qwen3ForCausalLM",
        default_template=None,
        lora_targets=_SPLIT_TARGETS,
    ),
}
"""Model families by name."""


def family_named(name: str) -> ModelFamily:
    """Look up a model family.

    Raises:
        SpecError: the family is unknown; the message lists the known families.
    """
    return look_up(FAMILIES, name, "model family")


def lora_modules(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the submodules of one layer that LoRA can adapt.

    A LoRA model must have exactly these, times the number of layers; a pattern that matches fewer
    modules would train less than was asked for without an error.
    """
    fused = architecture.num_heads == architecture.num_kv_heads
    absent = _Q_AND_KV if fused else (_QKV,)
    targets = family_named(architecture.family).lora_targets
    return tuple(name for name in targets if name not in absent)
