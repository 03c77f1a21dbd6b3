"""Names and layouts of parameters: Tunix's against Hugging Face's, one table for both directions.

A rule says which tensors of a checkpoint hold a parameter and how their axes are ordered. Loading,
writing, LoRA adapters and GGUF files all use it. Only numpy views are made here, never copies.

In the comments: V vocabulary, D embedding, F feed-forward, N query heads, K key-value heads,
H head dimension.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tuneloop.errors import DataError


@dataclass(frozen=True)
class TensorRule:
    """How the tensors of a checkpoint hold one parameter."""

    tensors: tuple[str, ...]
    """Names of the tensors; several are stacked along a new first axis of the parameter."""
    order: tuple[int, ...]
    """Axes of the parameter (without the stacked one) in the order of the tensor."""
    rows: int = 1
    """Number of leading axes in `order` that form the tensor's first axis; the rest form the
    second."""

    @property
    def is_stacked(self) -> bool:
        """Whether the parameter has a first axis over several tensors."""
        return len(self.tensors) > 1

    def split_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one tensor before its axes are merged, from the parameter's."""
        part = shape[1:] if self.is_stacked else shape
        return tuple(part[axis] for axis in self.order)

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of each tensor, from the parameter's shape."""
        split = self.split_shape(shape)
        second = (math.prod(split[self.rows :]),) if split[self.rows :] else ()
        return (math.prod(split[: self.rows]), *second)

    def part_view(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """View a tensor as the parameter, or as one entry of its stacked axis."""
        return tensor.reshape(self.split_shape(shape)).transpose(np.argsort(self.order))

    def tensor_views(self, param: np.ndarray) -> tuple[np.ndarray, ...]:
        """View a parameter as the tensors of a checkpoint; merging axes may copy."""
        parts = tuple(param) if self.is_stacked else (param,)
        shape = self.tensor_shape(param.shape)
        return tuple(part.transpose(self.order).reshape(shape) for part in parts)


_LAYER = "model.layers.{}."


def _one(tensor: str, order: tuple[int, ...], rows: int = 1) -> TensorRule:
    return TensorRule((tensor,), order, rows)


def _attention(*letters: str) -> tuple[str, ...]:
    return tuple(f"{_LAYER}self_attn.{letter}_proj.weight" for letter in letters)


def _norms(names: Mapping[str, str]) -> dict[str, TensorRule]:
    return {ours: _one(f"{_LAYER}{theirs}.weight", (0,)) for ours, theirs in names.items()}


_FEED_FORWARD = {  # (D, F) or (F, D) against (F, D) or (D, F)
    f"mlp.{name}_proj.kernel": _one(f"{_LAYER}mlp.{name}_proj.weight", (1, 0))
    for name in ("gate", "up", "down")
}
_GEMMA_ATTENTION = {
    "attn.q_einsum.w": TensorRule(_attention("q"), (0, 2, 1), 2),  # (N, D, H) against (N*H, D)
    "attn.kv_einsum.w": TensorRule(_attention("k", "v"), (0, 2, 1), 2),  # (2, K, D, H)
    "attn.qkv_einsum.w": TensorRule(_attention("q", "k", "v"), (0, 2, 1), 2),  # (3, N, D, H)
    "attn.attn_vec_einsum.w": TensorRule(_attention("o"), (2, 0, 1)),  # (N, H, D) against (D, N*H)
}
_SPLIT_ATTENTION = {
    **{  # (D, N, H) against (N*H, D)
        f"attn.{letter}_proj.w": TensorRule(_attention(letter), (1, 2, 0), 2) for letter in "qkv"
    },
    "attn.o_proj.w": TensorRule(_attention("o"), (2, 0, 1)),  # (N, H, D) against (D, N*H)
}
_PRE_NORMS = {
    "input_layernorm.w": "input_layernorm",
    "post_attention_layernorm.w": "post_attention_layernorm",
}

LAYER_RULES: dict[str, dict[str, TensorRule]] = {
    "gemma3": {
        **_GEMMA_ATTENTION,
        **_FEED_FORWARD,
        **_norms(
            {
                "attn._query_norm.scale": "self_attn.q_norm",
                "attn._key_norm.scale": "self_attn.k_norm",
                "pre_attention_norm.scale": "input_layernorm",
                "post_attention_norm.scale": "post_attention_layernorm",
                "pre_ffw_norm.scale": "pre_feedforward_layernorm",
                "post_ffw_norm.scale": "post_feedforward_layernorm",
            }
        ),
    },
    "gemma2": {
        **_GEMMA_ATTENTION,
        **_FEED_FORWARD,
        **_norms(
            {
                "pre_attention_norm.scale": "input_layernorm",
                "post_attn_norm.scale": "post_attention_layernorm",
                "pre_ffw_norm.scale": "pre_feedforward_layernorm",
                "post_ffw_norm.scale": "post_feedforward_layernorm",
            }
        ),
    },
    "llama3": {**_SPLIT_ATTENTION, **_FEED_FORWARD, **_norms(_PRE_NORMS)},
    "qwen2": {
        **_SPLIT_ATTENTION,
        **{
            f"attn.{letter}_bias": _one(f"{_LAYER}self_attn.{letter}_proj.bias", (0,))
            for letter in "qkv"
        },
        **_FEED_FORWARD,
        **_norms(_PRE_NORMS),
    },
    "qwen3": {
        **_SPLIT_ATTENTION,
        **_FEED_FORWARD,
        **_norms(
            {
                **_PRE_NORMS,
                "attn.q_norm.w": "self_attn.q_norm",
                "attn.k_norm.w": "self_attn.k_norm",
            }
        ),
    },
}
"""Family -> parameter within a layer -> rule; `{}` stands for the number of the layer."""

_TOP_RULES: dict[str, TensorRule] = {
    "embedder.input_embedding": _one("model.embed_tokens.weight", (0, 1)),  # (V, D)
    "final_norm.scale": _one("model.norm.weight", (0,)),
    "final_norm.w": _one("model.norm.weight", (0,)),
    "lm_head.w": _one("lm_head.weight", (1, 0)),  # (D, V) against (V, D)
}
"""Parameter outside the layers -> rule, for all families."""

LM_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_NUMBERED = re.compile(r"layers\.(\d+)\.(.+)")


def rule_of(family: str, param: str) -> TensorRule:
    """Return the rule of a parameter, with the number of its layer filled in.

    Args:
        family: key of `FAMILIES`.
        param: dotted name, such as `layers.0.attn.q_einsum.w`.

    Raises:
        DataError: the table has no rule for the parameter.
    """
    numbered = _NUMBERED.fullmatch(param)
    table = LAYER_RULES.get(family, {}) if numbered else _TOP_RULES
    rule = table.get(numbered[2] if numbered else param)
    if rule is None:
        raise DataError(
            f"model parameter {param}: has no Hugging Face name in family {family}, expected one of"
            f" the {len(LAYER_RULES.get(family, {}))} names per layer; add it to naming.py"
        )
    if numbered is None:
        return rule
    names = tuple(name.format(numbered[1]) for name in rule.tensors)
    return TensorRule(names, rule.order, rule.rows)


def layer_tensors(family: str) -> tuple[str, ...]:
    """Return the tensors of one layer, such as `self_attn.q_proj.weight`, in sorted order."""
    rules = LAYER_RULES[family].values()
    names = {name.removeprefix(_LAYER) for rule in rules for name in rule.tensors}
    return tuple(sorted(names))


def projections_of(family: str, module: str) -> tuple[str, ...]:
    """Return the Hugging Face modules that a Tunix module stands for, in stacked order.

    Args:
        family: key of `FAMILIES`.
        module: dotted name of a module with one weight, such as `layers.0.attn.kv_einsum`.

    Returns:
        Names such as `model.layers.0.self_attn.k_proj`; one name if nothing is stacked.

    Raises:
        DataError: the table has no rule for the module.
    """
    leaf = "kernel" if ".mlp." in module else "w"
    names = rule_of(family, f"{module}.{leaf}").tensors
    return tuple(name.removesuffix(".weight") for name in names)


def params_to_tensors(family: str, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """View parameters as the tensors of a checkpoint, under standard names."""
    tensors: dict[str, np.ndarray] = {}
    for param, array in params.items():
        rule = rule_of(family, param)
        tensors.update(zip(rule.tensors, rule.tensor_views(array), strict=True))
    return tensors


@dataclass(frozen=True)
class NameStyle:
    """Prefixes that a checkpoint uses in place of the standard `model.` and `lm_head.`."""

    body: str = "model."
    head: str = ""

    def stored_name(self, standard: str) -> str:
        """Return the name in the checkpoint of a tensor with this standard name."""
        if standard == LM_HEAD:
            return self.head + LM_HEAD
        return self.body + standard.removeprefix("model.")


_STYLES = (
    NameStyle(),
    # Gemma 3 with a vision model, as released and as transformers saves it.
    NameStyle("language_model.model.", "language_model."),
    # The same with the names that transformers 5 has in memory.
    NameStyle("model.language_model."),
    # A decoder saved without its head.
    NameStyle(""),
)


def name_style(stored_names: Iterable[str]) -> NameStyle:
    """Recognize the prefixes of a checkpoint by its embedding; standard ones if there is none."""
    names = set(stored_names)
    found = (style for style in _STYLES if style.stored_name(EMBEDDING) in names)
    return next(found, _STYLES[0])
