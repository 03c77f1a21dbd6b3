"""The parity gate, with mlx-lm as the other reader."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.training.models.checkpoints import random_tensors, tiny_config, write_folder
from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.training.models.check import Reference
from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.publish import mlx_reader
from tuneloop.training.models.publish.parity import check_folder, limit_of, make_reference

LLAMA_31 = {
    "rope_scaling": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    },
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {}),
    # mlx-lm rounds the square root of this width.
    "gemma3 of width 40": ("gemma3_text", {"hidden_size": 40}),
    "gemma2": ("gemma2", {}),
    "llama31": ("llama", LLAMA_31),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
}


def written(
    folder: Path, model_type: str = "llama", **overrides: Any
) -> tuple[str, Architecture, Reference]:
    """Write a folder and let the model that it holds answer; the model is "in memory"."""
    architecture = parse_config(tiny_config(model_type, **overrides), "config.json")
    write_folder(folder, dump_config(architecture, "float32"))
    model = load_model(open_folder(str(folder)), architecture)
    return str(folder), architecture, make_reference(model, architecture)


@pytest.mark.parametrize("name", MODELS)
def test_both_readers_compute_what_the_model_in_memory_does(name: str, tmp_path: Path) -> None:
    model_type, overrides = MODELS[name]
    folder, architecture, reference = written(tmp_path, model_type, **overrides)
    ours, theirs = check_folder(folder, architecture, reference)
    assert (ours.reader, ours.max_difference, ours.greedy_equal) == ("tuneloop", 0, 16)
    assert theirs.reader.startswith("mlx-lm 0.")
    assert 0 < theirs.max_difference <= 2e-5
    assert theirs.greedy_equal == 16


def test_a_bfloat16_folder_is_compared_in_float32(tmp_path: Path) -> None:
    architecture = parse_config(tiny_config("qwen3"), "config.json")
    config = dump_config(architecture, "bfloat16")
    write_folder(tmp_path, config, random_tensors(config, ml_dtypes.bfloat16))
    model = load_model(open_folder(str(tmp_path)), architecture)
    ours, theirs = check_folder(str(tmp_path), architecture, make_reference(model, architecture))
    assert (ours.dtype, ours.max_difference) == ("bfloat16", 0)
    assert theirs.dtype == "float32"
    assert theirs.max_difference <= 2e-5


def test_another_model_in_the_folder_is_found(tmp_path: Path) -> None:
    folder, architecture, reference = written(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = random_tensors(config)
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name] = tensors[name][::-1]
    write_folder(tmp_path, config, tensors)
    with pytest.raises(DataError, match=r"read by tuneloop, the model's logits differ by \d"):
        check_folder(folder, architecture, reference)


def test_another_config_in_the_folder_is_found(tmp_path: Path) -> None:
    folder, architecture, reference = written(tmp_path)
    config = dump_config(architecture.model_copy(update={"rope": Rope(theta=1e6)}), "float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"describes another model .* \(rope differ\)"):
        check_folder(folder, architecture, reference)


def test_what_mlx_lm_reads_otherwise_is_found(tmp_path: Path) -> None:
    """Our own reader agrees with our own writer: only the other one sees a wrong key."""
    folder, architecture, reference = written(tmp_path, rope_theta=1e6)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rope_theta": 1e4}))
    with pytest.raises(DataError, match=r"read by mlx-lm \S+, the model's logits differ"):
        check_folder(folder, architecture, reference)


def test_a_missing_tensor_is_found(tmp_path: Path) -> None:
    folder, architecture, reference = written(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = random_tensors(config)
    del tensors["model.norm.weight"]
    write_folder(tmp_path, config, tensors)
    with pytest.raises(DataError, match=r"model\.norm\.weight .* is missing"):
        check_folder(folder, architecture, reference)
    with pytest.raises(DataError, match="mlx-lm cannot read the model"):
        mlx_reader.make_reference(folder, reference.generated[:12], 1)


def test_without_mlx_lm_our_own_reader_alone_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    folder, architecture, reference = written(tmp_path)
    assert [each.reader for each in check_folder(folder, architecture, reference)] == ["tuneloop"]


@pytest.mark.parametrize(
    ("model_type", "overrides", "reason"),
    [
        ("gemma2", {"sliding_window": 16}, "has no sliding window"),
        ("gemma3_text", {"num_hidden_layers": 5}, "every n-th block is a global one"),
    ],
)
def test_models_that_mlx_lm_computes_otherwise_are_left_to_our_own_reader(
    model_type: str, overrides: dict[str, Any], reason: str
) -> None:
    architecture = parse_config(tiny_config(model_type, **overrides), "config.json")
    assert reason in (mlx_reader.why_not("/x", architecture, 28) or "")


def test_the_limit_grows_with_depth_logits_and_dtype() -> None:
    architecture = parse_config(tiny_config("llama"), "config.json")
    assert limit_of(architecture, 0.5, "float32") == 2e-5
    deep = architecture.model_copy(update={"num_layers": 32})
    assert limit_of(deep, 8, "float32") == pytest.approx(2e-5 * 40 * 8)
    assert limit_of(deep, 1, "bfloat16") == limit_of(architecture, 1, "bfloat16")
    assert limit_of(architecture, 1, "bfloat16") == pytest.approx(2e-5 * 1024)


def test_the_reference_is_a_function_of_model_and_seed(tmp_path: Path) -> None:
    _, _, first = written(tmp_path)
    _, _, again = written(tmp_path)
    assert np.array_equal(first.logits, again.logits)
    assert first.generated.shape == (28,)
    assert np.array_equal(first.logits[0, 11:27].argmax(-1), first.generated[12:])
