"""From a stored base to the folders of a tuned model, as a train stage makes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.training.models.checkpoints import random_tensors, tiny_config, write_folder
from tests.training.models.lora.models import LORA, adapted
from tests.training.models.publish.test_card import CARD
from tests.training.params import flat_params
from tests.training.text.models import model_files
from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.lora.apply import apply_lora, lora_items
from tuneloop.training.models.lora.merge import (
    adapters_of,
    merge_adapters,
    merge_trained,
    remove_adapters,
)
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.publish import parity
from tuneloop.training.models.publish.adapter_parity import check_adapter
from tuneloop.training.models.publish.hand_on import (
    adapter_documents,
    base_reference,
    round_weights,
    tuned_documents,
)
from tuneloop.training.models.stored import (
    Lineage,
    ModelFolder,
    open_model_folder,
    write_model_folder,
)

LINEAGE = Lineage("run-1", "tuned by run-1", licence="apache-2.0", base="base")
VOCABULARY = 261
"""Ids of the tests' byte tokenizer."""


def opener(folder: Path) -> Callable[[str], Any]:
    folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def open_file(name: str) -> Iterator[IO[bytes]]:
        with (folder / name).open("xb") as file:
            yield file

    return open_file


def base_folder(
    place: Path, model_type: str, dtype: Any = np.float32, norm_dtype: Any = None
) -> ModelFolder:
    """Write a base as `models add` stores it."""
    config = tiny_config(model_type, vocab_size=VOCABULARY)
    architecture = parse_config(config, "config.json")
    tensors = random_tensors(config, dtype)
    norms = {name: each for name, each in tensors.items() if each.ndim == 1}
    tensors |= {name: each.astype(norm_dtype or dtype) for name, each in norms.items()}
    source = write_folder(place / "source", config, tensors)
    model = load_model(open_folder(str(source)), architecture)
    documents = {
        **model_files(),
        "LICENSE": b"Do what you like.\n",
        "README.md": b"# The base\n",
    }
    lineage = Lineage("base", "hf://org/base@0123", licence="apache-2.0")
    write_model_folder(live_params(model), architecture, lineage, documents, opener(place / "base"))
    return open_model_folder(str(place / "base"))


def handed_on(
    model: Any, base: ModelFolder, folder: Path, dtype: str | None = "float32"
) -> tuple[ModelManifest, list[parity.Parity]]:
    """Write a trained model as the train stage does, with its gate; `dtype` is that in memory."""
    architecture = base.manifest.architecture
    round_weights(model, architecture, base.weights)
    reference = parity.make_reference(model, architecture)
    documents = tuned_documents(base, base.chat_format().stop_ids, CARD)
    manifest = write_model_folder(
        live_params(model), architecture, LINEAGE, documents, opener(folder), base=base
    )
    return manifest, parity.check_folder(str(folder), architecture, reference, dtype=dtype)


@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen2"])
def test_a_merged_model_and_its_adapter_are_handed_on(model_type: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path, model_type)
    architecture: Architecture = base.manifest.architecture
    model = adapted(load_model(base.weights, architecture), architecture=architecture)
    adapters = adapters_of(model, LORA)
    remove_adapters(model)
    merge_adapters(model, adapters)
    manifest, found = handed_on(model, base, tmp_path / "model")
    assert [each.reader[:6] for each in found] == ["tunelo", "mlx-lm"]
    assert found[0].max_difference == 0
    assert found[1].max_difference <= 2e-5
    assert [each.name for each in manifest.files] == [
        *("LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]

    # The adapter's files and the base give the merged weights, by Hugging Face's names alone.
    card = dataclasses.replace(CARD, adapter_only=True)
    documents = adapter_documents(adapters, LORA, base.manifest, card, base.weights)
    assert sorted(documents) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(documents["adapter_config.json"])
    assert config["base_model_name_or_path"] == "org/base"
    tensors = safetensors.numpy.load(documents["adapter_model.safetensors"])
    merged = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in safetensors.numpy.load_file(tmp_path / "base/model.safetensors").items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in tensors:
            a, b = (tensors.pop(f"{module}.lora_{each}.weight") for each in "AB")
            weight = weight + b @ a * (config["lora_alpha"] / config["r"])
        assert np.abs(weight - merged[name]).max() < 1e-6, name
    assert not tensors


def test_without_training_every_bit_of_the_base_is_handed_on(tmp_path: Path) -> None:
    base = base_folder(tmp_path, "llama", ml_dtypes.bfloat16)
    architecture = base.manifest.architecture
    model = load_model(base.weights, architecture, dtype="float32")
    handed_on(model, base, tmp_path / "model")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("base", "model")]
    assert weights[0] == weights[1]


def test_weights_without_adapter_keep_their_bits_and_mixed_dtypes(tmp_path: Path) -> None:
    base = base_folder(tmp_path, "llama", ml_dtypes.bfloat16, norm_dtype=np.float32)
    architecture = base.manifest.architecture
    method = LORA.model_copy(update={"targets": ("q_proj", "v_proj")})
    model = apply_lora(load_model(base.weights, architecture), architecture, method, 0)
    for path, variable in lora_items(model):
        if path[-1].endswith("_lora_b"):
            variable.set_value(variable.get_value() + 0.1)
    merged, adapters = merge_trained(model, method, lambda: None)
    _, found = handed_on(merged, base, tmp_path / "model", dtype=None)
    assert found[0].max_difference == 0
    written = open_folder(str(tmp_path / "model"))
    assert written.tensors["model.norm.weight"].dtype == np.float32
    for name, tensor in base.weights.tensors.items():
        same = np.array_equal(tensor.array(), written.tensors[name].array())
        assert same == (".q_proj." not in name and ".v_proj." not in name), name
    files = adapter_documents(adapters, method, base.manifest, CARD)
    assert check_adapter(files, base.weights, written, "adapter").dtype == "bfloat16"


def test_float32_weights_are_compared_as_they_are_written(tmp_path: Path) -> None:
    """A model trained in float32 from a bfloat16 base loses bits when it is written."""
    base = base_folder(tmp_path, "llama", ml_dtypes.bfloat16)
    architecture = base.manifest.architecture
    model = load_model(base.weights, architecture, dtype="float32")
    for variable in (model.layers[0].mlp.up_proj.kernel, model.embedder.input_embedding):
        variable.set_value(variable.get_value() * 1.001)
    before = flat_params(model)
    manifest, found = handed_on(model, base, tmp_path / "model")
    assert manifest.dtype == "bfloat16"
    assert [each.max_difference for each in found if each.reader == "tuneloop"] == [0]
    after = flat_params(model)
    name = "layers.0.mlp.up_proj.kernel"
    assert after[name].dtype == np.float32
    assert not np.array_equal(after[name], before[name])
    assert np.array_equal(after[name], before[name].astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://org/name@0a1b", "org/name"),
        ("hf://org/name", "org/name"),
        ("s3://bucket/models/x", "base"),
        ("/models/x", "base"),
    ],
)
def test_other_tools_find_the_base_by_its_hub_id(source: str, expected: str) -> None:
    architecture = parse_config(dump_config(parse_config(tiny_config("llama"), "x"), "x"), "x")
    manifest = ModelManifest(
        **{"name": "base", "architecture": architecture, "dtype": "float32", "parameters": 1},
        **{"files": (), "weights_sha256": "", "tokenizer_sha256": "", "source": source},
        chat_template_sha256=None,
    )
    assert base_reference(manifest) == expected
    tuned = manifest.model_copy(update={"name": "base-tuned", "base": "base"})
    assert base_reference(tuned) == "base-tuned"
