from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from tests.training.models.checkpoints import CONFIGS, random_tensors, tiny_config, write_folder
from tests.training.params import flat_params
from tuneloop.errors import DataError
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.hf_writer import (
    OutgoingTensor,
    outgoing_array,
    outgoing_params,
    write_weights,
)
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.parameters import live_params

HF_TINY = Path(__file__).parents[2] / "data" / "hf_tiny"
FOLDERS = sorted(each.name for each in HF_TINY.iterdir() if each.is_dir())
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": BFLOAT16}


class Sink:
    """Files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[io.BytesIO]:
        buffer = io.BytesIO()
        yield buffer
        assert name not in self.files
        self.files[name] = buffer.getvalue()


def read_back(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Read all tensors with the safetensors package."""
    tensors: dict[str, np.ndarray] = {}
    for name, data in files.items():
        if name.endswith(".safetensors"):
            for tensor, read in safetensors.deserialize(data):
                array = np.frombuffer(bytes(read["data"]), DTYPES[read["dtype"]])
                tensors[tensor] = array.reshape(read["shape"])
    return tensors


def tensors_of(arrays: dict[str, np.ndarray]) -> list[OutgoingTensor]:
    return [outgoing_array(n, a.dtype, a.shape, lambda a=a: a) for n, a in arrays.items()]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_reference_folder_goes_through_a_model_unchanged(name: str, dtype: str | None) -> None:
    config = json.loads((HF_TINY / name / "config.json").read_text())
    architecture = parse_config(config, name)
    base = open_folder(str(HF_TINY / name))
    model = load_model(base, architecture, dtype=dtype)
    sink = Sink()
    assert write_weights(outgoing_params(live_params(model), architecture, base), sink.open) == [
        "model.safetensors"
    ]
    before = read_back({each.url: Path(each.url).read_bytes() for each in base.files})
    after = read_back(sink.files)
    assert after.keys() == before.keys()
    assert all(after[each].tobytes() == before[each].tobytes() for each in before)
    if len(base.files) == 1:  # then even the file is the same, as transformers wrote it
        assert sink.files["model.safetensors"] == Path(base.files[0].url).read_bytes()


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_bfloat16_folder_goes_through_a_float32_model_unchanged(
    model_type: str, tmp_path: Path
) -> None:
    config = tiny_config(model_type)
    tensors = random_tensors(config, BFLOAT16)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)
    write_folder(tmp_path, config, tensors)
    architecture = parse_config(config, "")
    base = open_folder(str(tmp_path))
    model = load_model(base, architecture, dtype="float32")
    sink = Sink()
    write_weights(outgoing_params(flat_params(model), architecture, base), sink.open)
    after = read_back(sink.files)
    assert after.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (after[name].dtype, after[name].tobytes()) == (array.dtype, array.tobytes()), name


def test_a_second_copy_of_a_tied_embedding_stays_and_follows_it(tmp_path: Path) -> None:
    config = tiny_config("qwen3", tie_word_embeddings=True)
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    write_folder(tmp_path, config, tensors)
    architecture = parse_config(config, "")
    base = open_folder(str(tmp_path))
    params = flat_params(load_model(base, architecture))
    params["embedder.input_embedding"] = params["embedder.input_embedding"] + 1
    sink = Sink()
    write_weights(outgoing_params(params, architecture, base), sink.open)
    after = read_back(sink.files)
    assert after.keys() == tensors.keys()
    assert np.array_equal(after["lm_head.weight"], tensors["model.embed_tokens.weight"] + 1)
    assert np.array_equal(after["model.embed_tokens.weight"], after["lm_head.weight"])


def test_without_a_base_the_names_are_those_of_transformers_in_the_wanted_dtype(
    tmp_path: Path,
) -> None:
    config = tiny_config("gemma3_text")
    architecture = parse_config(config, "")
    write_folder(tmp_path, config)
    params = flat_params(load_model(open_folder(str(tmp_path)), architecture))
    sink = Sink()
    write_weights(outgoing_params(params, architecture, dtype="bfloat16"), sink.open)
    after = read_back(sink.files)
    expected = random_tensors(config)
    assert after.keys() == expected.keys()
    for name, array in expected.items():
        assert after[name].tobytes() == array.astype(BFLOAT16).tobytes(), name


def test_a_large_model_is_split_with_an_index(tmp_path: Path) -> None:
    arrays = {f"t{i}": np.full((4, 25), i, np.float32) for i in range(5)}
    arrays["t2"] = np.zeros((400, 25), np.float32)
    sink = Sink()
    names = write_weights(tensors_of(arrays), sink.open, max_shard_bytes=1000)
    assert names == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    index = json.loads(sink.files["model.safetensors.index.json"])
    assert index["metadata"] == {"total_size": 4 * 400 + 40000}
    assert index["weight_map"]["t2"] == "model-00002-of-00003.safetensors"
    for name, data in sink.files.items():
        (tmp_path / name).write_bytes(data)
    read = open_folder(str(tmp_path))
    assert {name: t.array().tolist() for name, t in read.tensors.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_the_bytes_equal_those_of_the_safetensors_package() -> None:
    arrays: dict[str, np.ndarray] = {
        "b": np.arange(3, dtype=BFLOAT16),
        "a": np.arange(2, dtype=np.float16),
        "c": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.0, np.float32),
    }
    sink = Sink()
    write_weights(tensors_of(arrays), sink.open)
    solid = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    theirs = safetensors_numpy.save(solid, metadata={"format": "pt"})
    assert sink.files["model.safetensors"] == theirs


def test_a_dtype_of_no_checkpoint_is_refused() -> None:
    def never() -> Any:
        raise AssertionError

    with pytest.raises(DataError, match="tensor a: has dtype float64, expected one of float32, "):
        outgoing_array("a", np.dtype(np.float64), (1,), never)
