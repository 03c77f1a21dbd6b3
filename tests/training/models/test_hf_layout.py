from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.training.models.checkpoints import safetensors_bytes
from tuneloop.errors import DataError, InputMissing, Transient
from tuneloop.storage import files
from tuneloop.training.models import hf_layout
from tuneloop.training.models.hf_layout import open_folder

TENSORS: dict[str, np.ndarray] = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
    "c": np.arange(5, dtype=np.float16),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("place", ["file", "memory"])
def test_mixed_dtypes_are_read_from_any_store(place: str, tmp_path: Path) -> None:
    url = str(tmp_path) if place == "file" else f"memory://layout/{tmp_path.name}"
    files.write(f"{url}/model.safetensors", safetensors_numpy.save(TENSORS))
    folder = open_folder(url)
    assert list(folder.tensors) == ["a", "b", "c", "empty"]
    assert folder.bytes_read == 0
    for name, array in TENSORS.items():
        read = folder.tensors[name].array()
        assert read.dtype == array.dtype
        assert read.shape == array.shape
        assert np.array_equal(read, array)
        assert not read.flags.writeable
        assert folder.tensors[name].raw() == array.tobytes()


def test_blocks_cover_the_rows_in_bounded_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_layout, "_BLOCK_BYTES", 40)
    rows = np.arange(21, dtype=np.float32).reshape(7, 3)
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({"pad": rows, "rows": rows}))
    tensor = open_folder(str(tmp_path)).tensors["rows"]
    pieces = [
        (a, b, data.view(np.float32).tolist()) for a, b, data in tensor.blocks(range(1, 7), 12)
    ]
    assert [piece[:2] for piece in pieces] == [(1, 4), (4, 7)]
    assert [each for piece in pieces for each in piece[2]] == rows[1:].ravel().tolist()


def test_a_sharded_folder_is_one_model_and_other_files_do_not_matter(tmp_path: Path) -> None:
    first, second = {"a": TENSORS["a"]}, {"b": TENSORS["b"]}
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors_bytes(first))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(safetensors_bytes(second))
    (tmp_path / "consolidated.safetensors").write_bytes(b"another layout")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.safetensors").write_bytes(b"another folder")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": weight_map}))
    folder = open_folder(str(tmp_path))
    assert list(folder.tensors) == ["a", "b"]
    assert len(folder.files) == 2
    assert folder.home_of("b") == f"{tmp_path}/model-00002-of-00002.safetensors"
    assert folder.home_of("c") == str(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"index\.json: names 'model-00002-of-00002\.safetensors'"):
        open_folder(str(tmp_path))
    index.write_text(json.dumps({"weight_map": ["a"]}))
    with pytest.raises(DataError, match="found no object weight_map"):
        open_folder(str(tmp_path))
    index.unlink()
    with pytest.raises(InputMissing, match=r"has 2 safetensors files and no model\.safetensors"):
        open_folder(str(tmp_path))


def test_links_as_in_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(safetensors_bytes(TENSORS))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blob")
    assert list(open_folder(str(snapshot)).tensors) == list(TENSORS)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.safetensors"):
        (tmp_path / name).write_bytes(safetensors_bytes({"a": TENSORS["a"]}))
    index = {"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"y\.safetensors: tensor a is also in .*x\.safetensors"):
        open_folder(str(tmp_path))


GOOD = safetensors_bytes(TENSORS)


def entry(dtype: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds 0 bytes and no header"),
        (b"\x01\x02", "holds 2 bytes and no header"),
        (struct.pack("<Q", 1 << 40) + b"{}", "holds 10 bytes and a header of 1099511627776 bytes"),
        (struct.pack("<Q", 3) + b"abc", "the header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", r"the header is \[\], expected an object"),
        (struct.pack("<Q", 3) + b'"\xff"', "the header is not JSON"),
        (GOOD[:-1], "is torn, it holds .* bytes, expected"),
        (GOOD + b"x", "has bytes of no tensor"),
        (safetensors_bytes(TENSORS, b=entry("BF16", [2, 3], 44, 56)), "tensor b overlaps a"),
        (
            safetensors_bytes(TENSORS, b=entry("BF16", [2, 3], 52, 64)),
            "tensor b leaves a gap after a",
        ),
        (safetensors_bytes(TENSORS, a=entry("F32", [3, 5], 0, 48)), "tensor a has 48 bytes, expe"),
        (safetensors_bytes(TENSORS, a=entry("F32", [-3, -4], 0, 48)), "tensor a has 48 bytes"),
        (safetensors_bytes(TENSORS, a={"dtype": "F32"}), "tensor a is described by"),
        (safetensors_bytes(TENSORS, a=7), "tensor a is described by 7"),
        (safetensors_bytes(TENSORS, a=entry("F8_E4M3", [48], 0, 48)), "tensor a has dtype F8_E4M3"),
        (
            safetensors_bytes(TENSORS, a=entry("F32", [3, 4], -4, 44)),
            "tensor a overlaps the header",
        ),
    ],
)
def test_broken_files_are_one_sentence(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(
        DataError, match=f"^{tmp_path}/model.safetensors: .*({message}).*; "
    ) as caught:
        open_folder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_integer_buffers_are_no_weights_but_do_no_harm(tmp_path: Path) -> None:
    data = safetensors_bytes({"a": TENSORS["a"]}, a=entry("I64", [2, 3], 0, 48))
    (tmp_path / "model.safetensors").write_bytes(data)
    tensor = open_folder(str(tmp_path)).tensors["a"]
    assert tensor.raw() == TENSORS["a"].tobytes()
    with pytest.raises(DataError, match="tensor a has dtype I64, which tuneloop does not support"):
        tensor.array()


def test_a_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputMissing, match=r"has no safetensors file, expected model\.safetensors"):
        open_folder(str(tmp_path))


def test_a_short_answer_of_a_store_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    whole: Callable[..., bytes] = files.read_range
    monkeypatch.setattr(files, "read_range", lambda *args: whole(*args)[:-1])
    with pytest.raises(Transient, match="received 7 bytes of the range 0 to 8, expected 8"):
        open_folder(str(tmp_path))
