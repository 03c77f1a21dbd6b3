"""A GGUF file becomes a stored model in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.models.checkpoints import random_tensors, tiny_config
from tuneloop.artifacts.model_manifest import ModelManifest, model_prefix
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.models.add import Request, add_model
from tuneloop.models.stored import list_models, verify_files
from tuneloop.storage import files
from tuneloop.training.models.gguf import gguf_name
from tuneloop.training.text.tokenizers import load_tokenizer_files

CONFIG = tiny_config("qwen3")
TENSORS = random_tensors(CONFIG)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def write_gguf(path: Path, **strings: str) -> Path:
    """Write a small Qwen 3 with a byte-level vocabulary, as llama.cpp's converter does."""
    writer = gguf.GGUFWriter(path, "qwen3")
    shape = {
        "block_count": CONFIG["num_hidden_layers"],
        "embedding_length": CONFIG["hidden_size"],
        "feed_forward_length": CONFIG["intermediate_size"],
        "attention.head_count": CONFIG["num_attention_heads"],
        "attention.head_count_kv": CONFIG["num_key_value_heads"],
        "attention.key_length": CONFIG["head_dim"],
        "context_length": CONFIG["max_position_embeddings"],
    }
    for key, value in shape.items():
        writer.add_uint32(f"qwen3.{key}", value)
    writer.add_float32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("qwen3.rope.freq_base", CONFIG["rope_theta"])
    texts = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.chat_template": TEMPLATE,
        "general.license": "apache-2.0",
        "general.name": "Tiny Qwen",
        **strings,
    }
    for key, text in texts.items():
        writer.add_string(key, text)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|end|>", *letters, "ab"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * 27])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    for name, array in TENSORS.items():
        writer.add_tensor(gguf_name("qwen3", name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(url: object, artifacts: object, **options: Any) -> ModelManifest:
    return add_model(Request("tiny", str(url), str(artifacts), **options))


def test_a_file_becomes_a_folder(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "Tiny.gguf")
    manifest = add(path, tmp_path / "artifacts")
    folder = Path(model_prefix(str(tmp_path / "artifacts"), "tiny"))
    assert [file.name for file in manifest.files] == [
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert list(verify_files(manifest, str(folder), lambda done, total: None)) == []
    assert (manifest.architecture.family, manifest.dtype) == ("qwen3", "float32")
    assert (manifest.licence, manifest.source) == ("apache-2.0", str(path))
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == TENSORS.keys()
    assert all(np.array_equal(stored[name], array) for name, array in TENSORS.items())
    contents = {name: (folder / name).read_bytes() for name in ("tokenizer.json",)}
    tokenizer = load_tokenizer_files(contents, "tiny")
    assert tokenizer.encode("abc<|end|>") == [27, 3, 0]
    assert add(path, tmp_path / "artifacts") == manifest


def test_the_dtype_can_be_chosen_and_the_file_can_be_anywhere(tmp_path: Path) -> None:
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    files.write("memory://gguf/tiny.gguf", data)
    manifest = add("memory://gguf/tiny.gguf", tmp_path / "artifacts", dtype="bfloat16")
    assert (manifest.dtype, manifest.source) == ("bfloat16", "memory://gguf/tiny.gguf")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "Tiny.gguf: tokenizer.ggml.model is bert, expected"),
        ({"tokenizer.ggml.pre": "unheard"}, "Tiny.gguf: tokenizer.ggml.pre is unheard, expected"),
    ],
)
def test_what_is_not_supported_is_one_sentence(
    texts: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        add(write_gguf(tmp_path / "Tiny.gguf", **texts), tmp_path / "artifacts")
    assert message in str(caught.value)
    assert list_models(str(tmp_path / "artifacts")) == []


def test_wrong_files_are_one_sentence(tmp_path: Path) -> None:
    artifacts, path = tmp_path / "artifacts", write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="which is converted to Hugging Face layout"):
        add(path, artifacts, in_place=True)
    with pytest.raises(InputMissing, match="missing, expected a GGUF file; check the path"):
        add(tmp_path / "none.gguf", artifacts)
    with pytest.raises(InputMissing, match="missing, expected a GGUF file; check the URL"):
        add("memory://gguf/none.gguf", artifacts)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"tiny.gguf: not a complete GGUF file"):
        add(path, artifacts)
    assert list_models(str(artifacts)) == []
