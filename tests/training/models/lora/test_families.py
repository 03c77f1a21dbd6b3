"""Adapters of every family: merged weights, quantized weights and the PEFT folder."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.training.models.checkpoints import MODEL_TYPES, tiny_config
from tests.training.models.lora.models import INT8, LORA, NF4, adapted, build, logits
from tests.training.params import flat_params
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.lora.merge import adapters_of, merge_adapters
from tuneloop.training.models.lora.peft import peft_files
from tuneloop.training.models.naming import NameStyle, params_to_tensors
from tuneloop.training.models.patches.quantized_einsum import allow_quantized_weights
from tuneloop.training.models.registry import FAMILIES

SHARED_HEADS = "gemma3 with shared heads"
MODELS = [*FAMILIES, SHARED_HEADS]


def architecture_of(model: str) -> Architecture:
    family = model.split()[0]
    heads = {"num_key_value_heads": 4} if model == SHARED_HEADS else {}
    config = tiny_config(MODEL_TYPES.get(family, family), num_hidden_layers=2, **heads)
    return parse_config(config, "config.json")


@pytest.fixture(params=MODELS, scope="module")
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return architecture_of(request.param)


@pytest.fixture(scope="module")
def base(architecture: Architecture) -> Any:
    return build(architecture)


def test_merged_weights_and_the_peft_folder_compute_what_the_adapters_do(
    architecture: Architecture, base: Any
) -> None:
    model = adapted(base, architecture=architecture)
    expected = np.array(logits(model))
    before = params_to_tensors(architecture.family, flat_params(base))
    adapters = adapters_of(model, LORA)
    merged = build(architecture)
    merge_adapters(merged, adapters)
    with jax.default_matmul_precision("highest"):
        assert np.abs(logits(merged) - expected).max() < 2e-5
    assert np.abs(expected - logits(base)).max() > 0.1

    files = peft_files(adapters, architecture.family, LORA, "org/base")
    config = json.loads(files["adapter_config.json"])
    tensors = safetensors.numpy.load(files["adapter_model.safetensors"])
    after = params_to_tensors(architecture.family, flat_params(merged))
    for name, weight in after.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" not in tensors:
            assert np.array_equal(weight, before[name])
            continue
        a, b = tensors.pop(f"{module}.lora_A.weight"), tensors.pop(f"{module}.lora_B.weight")
        assert a.shape == (config["r"], weight.shape[1])
        assert b.shape == (weight.shape[0], config["r"])
        delta = (b @ a) * (config["lora_alpha"] / config["r"])
        assert np.abs(before[name] + delta - weight).max() < 1e-6
    assert not tensors


def test_quantized_weights_start_near(architecture: Architecture, base: Any) -> None:
    model = apply_lora(base, architecture, INT8, 0)
    difference = np.abs(logits(model) - logits(base)).max()
    assert 1e-3 < difference < 0.2


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_tunix_still_cannot_use_quantized_weights_of_qwen(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, Tunix can, and patches/quantized_einsum.py can go."""
    name = f"tuneloop.training.models.lora.apply.{allow_quantized_weights.__name__}"
    monkeypatch.setattr(name, lambda model: None)
    architecture = architecture_of(family)
    model = apply_lora(build(architecture), architecture, NF4, 0)
    with pytest.raises(TypeError):
        logits(model)


def test_names_are_those_of_a_multimodal_model_in_memory() -> None:
    architecture = architecture_of("gemma3")
    adapters = adapters_of(adapted(build(architecture), architecture=architecture), LORA)
    found = []
    for style in (None, NameStyle("language_model.model.", "language_model.")):
        files = peft_files(adapters, "gemma3", LORA, "org/base", style)
        tensors = safetensors.numpy.load(files["adapter_model.safetensors"])
        found.append({name.partition("layers.")[0] for name in tensors})
    assert found == [{"base_model.model.model."}, {"base_model.model.model.language_model."}]


def test_the_peft_config_is_what_vllm_and_peft_expect() -> None:
    files = peft_files({}, "llama3", LORA.model_copy(update={"alpha": 8.5}), "org/base")
    config = json.loads(files["adapter_config.json"])
    assert config["lora_alpha"] == 8.5
    files = peft_files({}, "llama3", LORA, "org/base")
    config = json.loads(files["adapter_config.json"])
    assert config["lora_alpha"] == 8
    assert isinstance(config["lora_alpha"], int)
    assert (config["bias"], config["base_model_name_or_path"]) == ("none", "org/base")
    assert "modules_to_save" not in config
