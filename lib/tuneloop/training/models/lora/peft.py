"""Write adapters as a folder that PEFT, vLLM and transformers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import numpy as safetensors_numpy

from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.lora.merge import Adapter
from tuneloop.training.models.naming import NameStyle, name_style, projections_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the name of a module of the base."""
MULTIMODAL_BODY = "model.language_model."
"""Prefix that the text model of a multimodal model has in memory, whatever its file's names."""


def peft_files(
    adapters: Mapping[str, Adapter],
    family: str,
    method: LoraMethod,
    base: str,
    style: NameStyle | None = None,
) -> dict[str, bytes]:
    """Return the files of a PEFT adapter folder.

    Args:
        adapters: adapters by weight, as `adapters_of` returns them.
        family: family of the model.
        method: rank, alpha and dropout.
        base: hub id or folder of the base model, which PEFT loads first.
        style: prefixes of the names in the base's files; None for those of a text model.

    Raises:
        DataError: the family has no Hugging Face name for a weight.
    """
    is_multimodal = style is not None and "language_model." in style.body
    body = MULTIMODAL_BODY if is_multimodal else "model."
    tensors: dict[str, np.ndarray] = {}
    for name, adapter in sorted(adapters.items()):
        projections = projections_of(family, name.rpartition(".")[0])
        for projection, (a, b) in zip(
            projections, peft_matrices(adapter, len(projections)), strict=True
        ):
            module = PREFIX + body + projection.removeprefix("model.")
            tensors[f"{module}.lora_A.weight"] = a
            tensors[f"{module}.lora_B.weight"] = b
    modules = {name.split(".")[-3] for name in tensors}
    weights: bytes = safetensors_numpy.save(tensors, metadata={"format": "pt"})
    return {CONFIG: _config(method, base, sorted(modules)), WEIGHTS: weights}


def peft_matrices(adapter: Adapter, parts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return A and B of each Hugging Face projection that a layer computes.

    Args:
        adapter: the adapter of one layer.
        parts: number of projections; with more than one, the first output axis of B counts them,
            and all of them share A.

    Returns:
        Pairs of float32 (rank, inputs) and (outputs, rank), contiguous.
    """
    rank = adapter.a.shape[-1]
    a = np.ascontiguousarray(adapter.a.reshape(-1, rank).T)
    outputs = [adapter.b] if parts == 1 else [adapter.b[:, part] for part in range(parts)]
    # Each projection has its own copy of A: safetensors refuses two names for one array.
    return [(a.copy(), np.ascontiguousarray(b.reshape(rank, -1).T)) for b in outputs]


def adapted_modules(tensors: Mapping[str, Any], base: CheckpointFiles) -> dict[str, str]:
    """Return the adapted weights under the base's names, with their module in the adapter.

    Args:
        tensors: tensors of `adapter_model.safetensors` by name.
        base: weights of the base.
    """
    style = name_style(base.tensors)
    found = {}
    for tensor in tensors:
        module = tensor.removesuffix(".lora_A.weight")
        if module != tensor:
            inner = module.removeprefix(PREFIX).removeprefix(MULTIMODAL_BODY)
            standard = f"model.{inner.removeprefix('model.')}.weight"
            found[style.stored_name(standard)] = module
    return found


def _config(method: LoraMethod, base: str, modules: list[str]) -> bytes:
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": method.rank,
        # vLLM wants a whole number where it is one.
        "lora_alpha": int(method.alpha) if method.alpha.is_integer() else method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return json.dumps(config, indent=2).encode() + b"\n"
