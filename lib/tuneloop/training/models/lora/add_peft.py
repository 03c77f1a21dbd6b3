"""Add the adapter of a PEFT folder to the weights of a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.lora.peft import adapted_modules
from tuneloop.training.models.naming import name_style, rule_of
from tuneloop.training.models.parameters import param_items


def add_peft_adapter(
    model: Any, family: str, base: CheckpointFiles, weights: bytes, scale: float, place: str
) -> None:
    """Add an adapter in place; each sum is computed in float32 and rounded to the weight's dtype.

    Args:
        model: the base model.
        family: its family.
        base: the files that it was loaded from.
        weights: content of `adapter_model.safetensors`.
        scale: alpha / rank.
        place: URL of that file, for error messages.

    Raises:
        DataError: the adapter is for a weight that the model lacks.
    """
    tensors = safetensors_numpy.load(weights)
    modules, style, used = adapted_modules(tensors, base), name_style(base.tensors), set()
    for path, variable in param_items(model):
        rule = rule_of(family, ".".join(map(str, path)))
        names = [style.stored_name(name) for name in rule.tensors]
        if not modules.keys() & set(names):
            continue
        value = variable.get_value()
        total = np.asarray(value, np.float32).copy()
        parts = total if rule.is_stacked else total[None]
        for part, name in zip(parts, names, strict=True):
            if (module := modules.get(name)) is not None:
                part += rule.part_view(_product(tensors, module, scale), value.shape)
                used.add(name)
        variable.set_value(jax.device_put(total.astype(value.dtype), value.sharding))
    if unknown := sorted(modules.keys() - used):
        raise DataError(
            f"{place}: has an adapter for {unknown[0]}, which the base model lacks; it is of"
            " another base model"
        )


def _product(tensors: Mapping[str, np.ndarray], module: str, scale: float) -> np.ndarray:
    """Return what the adapter adds to a tensor, float32 (outputs, inputs)."""
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    return np.asarray(np.float32(scale) * (b @ a))
