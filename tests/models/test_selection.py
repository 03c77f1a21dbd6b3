from __future__ import annotations

import json

import pytest

from tuneloop.errors import DataError
from tuneloop.models.selection import small_names, weight_names

REPOSITORY = (
    ".gitattributes",
    "LICENSE",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "consolidated.00.safetensors",
    "generation_config.json",
    "model.png",
    "model.safetensors",
    "pytorch_model.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.bin",
)


def index(*names: object) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate(names)}}).encode()


def test_only_the_files_of_the_model_are_taken() -> None:
    assert small_names(REPOSITORY, "m") == [
        *("LICENSE", "README.md", "chat_template.jinja", "config.json"),
        *("generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert weight_names(REPOSITORY, None, "m") == ["model.safetensors"]


def test_the_index_names_the_files() -> None:
    names = ("a.safetensors", "b.safetensors", "consolidated.safetensors")
    assert weight_names(names, index("b.safetensors", "a.safetensors"), "m") == [*names[:2]]
    assert weight_names(("only.safetensors",), None, "m") == ["only.safetensors"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("README.md",), "m: config.json is missing, expected a folder in Hugging Face layout"),
        (("adapter_config.json",), "m: found a PEFT adapter, expected a whole model; merge"),
        (("b.gguf", "a.gguf"), "found 2 GGUF files; add one of them, such as m/a.gguf"),
    ],
)
def test_a_folder_without_a_config(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        small_names(names, "m")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "listed", "message"),
    [
        ((), None, "m: found no weights, expected model.safetensors; convert the model"),
        (("pytorch_model.bin",), None, "m: found pytorch_model.bin and no safetensors file"),
        (("a.safetensors", "b.safetensors"), None, "found 2 safetensors files and no model.safet"),
        (("a.safetensors",), index("a.safetensors", "b.safetensors"), "names b.safetensors, which"),
        ((), index("../a.safetensors"), "names the file '../a.safetensors', expected safetensors"),
        ((), index(3), "names the file '3', expected safetensors files in the same folder"),
        ((), index(), "weight_map is {}, expected an object of tensor names and files"),
        ((), b"{", "m/model.safetensors.index.json: broken JSON ("),
        ((), b"[]", "m/model.safetensors.index.json: found [], expected a JSON object"),
    ],
)
def test_broken_weights(names: tuple[str, ...], listed: bytes | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        weight_names(names, listed, "m")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
