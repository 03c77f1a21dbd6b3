from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.training.models.checkpoints import (
    CONFIGS,
    random_tensors,
    safetensors_bytes,
    tiny_config,
    write_folder,
)
from tests.training.params import flat_params
from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.naming import params_to_tensors
from tuneloop.training.models.parameters import param_items
from tuneloop.training.models.tensors import most_common_dtype

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def written(folder: Path, model_type: str, **changes: Any) -> tuple[Architecture, dict[str, Any]]:
    config = tiny_config(model_type, **changes)
    tensors = random_tensors(config)
    write_folder(folder, config, tensors)
    return parse_config(config, f"{folder}/config.json"), tensors


def refused(folder: Path, architecture: Architecture, tensors: dict[str, np.ndarray]) -> str:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(DataError) as caught:
        load_model(open_folder(str(folder)), architecture)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_tensor_arrives_and_goes_back_unchanged(model_type: str, tmp_path: Path) -> None:
    architecture, tensors = written(tmp_path, model_type)
    model = load_model(open_folder(str(tmp_path)), architecture)
    back = params_to_tensors(architecture.family, flat_params(model))
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == np.float32, name
        assert np.array_equal(back[name], array), name


def test_ranges_of_an_object_store_are_read_like_a_local_file(tmp_path: Path) -> None:
    architecture, tensors = written(tmp_path, "gemma3_text", num_key_value_heads=4)
    url = f"memory://loading/{tmp_path.name}"
    files.write(f"{url}/model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    folder = open_folder(url)
    local, remote = (
        flat_params(load_model(each, architecture)) for each in (open_folder(str(tmp_path)), folder)
    )
    assert all(np.array_equal(local[name], remote[name]) for name in local)
    assert folder.bytes_read == sum(each.nbytes for each in tensors.values())


def test_mixed_dtypes_are_kept_or_converted(tmp_path: Path) -> None:
    """Tunix's own loader fails on a file with two dtypes."""
    config = tiny_config("llama")
    tensors = {
        name: array if "norm" in name else array.astype(BFLOAT16)
        for name, array in random_tensors(config).items()
    }
    tensors["model.layers.0.self_attn.k_proj.weight"] = tensors[
        "model.layers.0.self_attn.k_proj.weight"
    ].astype(np.float16)
    write_folder(tmp_path, config, tensors)
    architecture = parse_config(config, "")
    folder = open_folder(str(tmp_path))
    assert most_common_dtype(folder) == "bfloat16"
    stored = params_to_tensors("llama3", flat_params(load_model(folder, architecture)))
    assert {name: each.dtype for name, each in stored.items()} == {
        name: each.dtype for name, each in tensors.items()
    }
    for dtype in (np.dtype(np.float32), BFLOAT16):
        model = load_model(folder, architecture, dtype=dtype.name)
        params = params_to_tensors("llama3", flat_params(model))
        for name, array in tensors.items():
            assert params[name].dtype == dtype
            assert np.array_equal(params[name], array.astype(dtype)), name


def test_stacked_tensors_of_two_dtypes_become_the_wider_one(tmp_path: Path) -> None:
    config = tiny_config("gemma3_text")
    tensors = random_tensors(config)
    narrow = "model.layers.1.self_attn.v_proj.weight"
    tensors[narrow] = tensors[narrow].astype(BFLOAT16)
    write_folder(tmp_path, config, tensors)
    params = flat_params(load_model(open_folder(str(tmp_path)), parse_config(config, "")))
    assert params["layers.1.attn.kv_einsum.w"].dtype == np.float32
    back = params_to_tensors("gemma3", params)
    assert np.array_equal(back[narrow].astype(BFLOAT16), tensors[narrow])


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", ""])
def test_other_prefixes_and_vision_models_are_understood(prefix: str, tmp_path: Path) -> None:
    config = tiny_config("gemma3_text")
    tensors = random_tensors(config)
    named = {prefix + name.removeprefix("model."): array for name, array in tensors.items()}
    outer = "model." if prefix == "model.language_model." else ""
    named[f"{outer}vision_tower.patch.weight"] = np.zeros((2, 2), np.float32)
    named[f"{outer}multi_modal_projector.w"] = np.zeros(3, np.float32)
    write_folder(tmp_path, config, named)
    params = flat_params(load_model(open_folder(str(tmp_path)), parse_config(config, "")))
    back = params_to_tensors("gemma3", params)
    assert all(np.array_equal(back[name], array) for name, array in tensors.items())


def test_a_tied_head_that_is_stored_again_and_old_buffers_are_no_problem(tmp_path: Path) -> None:
    config = tiny_config("qwen3", tie_word_embeddings=True)
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    write_folder(tmp_path, config, tensors)
    names = {
        path[0]
        for path, _ in param_items(load_model(open_folder(str(tmp_path)), parse_config(config, "")))
    }
    assert names == {"embedder", "layers", "final_norm"}


def test_an_untied_head_must_be_there(tmp_path: Path) -> None:
    architecture, tensors = written(tmp_path, "llama")
    del tensors["lm_head.weight"]
    assert "lm_head.weight (128, 64) is missing in" in refused(tmp_path, architecture, tensors)


def test_all_that_does_not_fit_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, tensors = written(tmp_path, "gemma3_text")
    file = f"{tmp_path}/model.safetensors"
    allocated: list[Any] = []
    monkeypatch.setattr(jax, "make_array_from_callback", lambda *args: allocated.append(args))
    up = "model.layers.1.mlp.up_proj.weight"
    key = "model.layers.1.self_attn.k_proj.weight"
    broken = {**tensors, up: tensors[up][:64], "model.layers.99.x": np.zeros(4, np.float32)}
    del broken[key]
    message = refused(tmp_path, architecture, broken)
    assert "3 tensors do not fit the gemma3 model that its config.json describes" in message
    assert f"{key} (32, 64) is missing in {file}" in message
    assert f"{up} is (64, 64) in {file}, expected (96, 64)" in message
    assert f"model.layers.99.x (4,) in {file} is unknown" in message
    many = {name: array for name, array in tensors.items() if ".layers.0." not in name}
    assert re.search(
        r"13 tensors do not fit .*; and 9 more; ", refused(tmp_path, architecture, many)
    )
    assert allocated == []


def test_another_vocabulary_is_named(tmp_path: Path) -> None:
    """Gemma 3 4B has 262,208 rows in its files, Tunix's preset has 262,144."""
    architecture, tensors = written(tmp_path, "gemma2")
    name = "model.embed_tokens.weight"
    tensors[name] = np.concatenate([tensors[name], tensors[name][:64]])
    message = refused(tmp_path, architecture, tensors)
    assert (
        f"{name} is (192, 64) in {tmp_path}/model.safetensors, expected (128, 64) (vocab_size 128)"
        in message
    )


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    architecture, tensors = written(tmp_path, "llama")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(DataError, match=f"model.safetensors: tensor {name} has dtype F8_E4M3"):
        load_model(open_folder(str(tmp_path)), architecture)


def test_a_loaded_model_can_be_donated_to_a_training_step(tmp_path: Path) -> None:
    """JAX must own the memory; a view of the mapped file would crash when it is written to."""
    architecture, _ = written(tmp_path, "llama")
    model = load_model(open_folder(str(tmp_path)), architecture)
    before = (tmp_path / "model.safetensors").read_bytes()
    step = jax.jit(lambda x: x * 2, donate_argnums=0)
    for _, variable in param_items(model):
        variable.set_value(step(variable.get_value()))
    assert (tmp_path / "model.safetensors").read_bytes() == before
