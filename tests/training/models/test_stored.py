from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.training.models.checkpoints import random_tensors, tiny_config, write_folder
from tests.training.params import flat_params
from tests.training.text.models import CHATML, model_files
from tuneloop.artifacts.model_manifest import ModelManifest, load_model_manifest
from tuneloop.errors import DataError, InputMissing
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.stored import (
    Lineage,
    StoredModel,
    discard,
    load_stored_model,
    open_model_folder,
    write_model_folder,
)

CONFIG = tiny_config("qwen3", vocab_size=261, tie_word_embeddings=True, my_key="kept")
DOCUMENTS = {
    **model_files(CHATML),
    "generation_config.json": json.dumps({"eos_token_id": [258, 256], "top_k": 1}).encode(),
    "README.md": b"# A model\n",
}
LINEAGE = Lineage("tuned", "tuned by run r-1", licence="apache-2.0", base="base")


def opener(folder: Path) -> Callable[[str], Any]:
    folder.mkdir(exist_ok=True)

    @contextmanager
    def open_file(name: str) -> Iterator[IO[bytes]]:
        with (folder / name).open("xb") as file:
            yield file

    return open_file


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was written as a train stage writes its model."""
    place = tmp_path_factory.mktemp("stored")
    write_folder(place / "source", CONFIG)
    architecture = parse_config(CONFIG, "config.json")
    model = load_model(open_folder(str(place / "source")), architecture)
    manifest = write_model_folder(
        live_params(model), architecture, LINEAGE, DOCUMENTS, opener(place / "model")
    )
    assert manifest == load_model_manifest(str(place / "model"))
    return place / "model"


def test_a_written_folder_is_loaded_through_its_manifest(stored: Path) -> None:
    loaded = load_stored_model(str(stored))
    assert isinstance(loaded, StoredModel)
    manifest = loaded.manifest
    assert loaded.digest == manifest.digest
    assert (manifest.name, manifest.base, manifest.licence) == ("tuned", "base", "apache-2.0")
    assert manifest.dtype == "float32"
    assert manifest.parameters == sum(each.size for each in random_tensors(CONFIG).values())
    names = [each.name for each in manifest.files]
    assert names == sorted([*DOCUMENTS, "config.json", "model.safetensors"])
    assert loaded.chat_format.decode_response(loaded.chat_format.tokenizer.encode("yes")) == "yes"
    params, expected = flat_params(loaded.model), random_tensors(CONFIG)
    embedding = params["embedder.input_embedding"]
    assert np.array_equal(embedding, expected["model.embed_tokens.weight"])


def test_config_names_the_control_ids_of_generation_config(stored: Path) -> None:
    config = json.loads((stored / "config.json").read_text())
    assert config["eos_token_id"] == [258, 256]
    assert config["architectures"] == ["Qwen3ForCausalLM"]


def test_a_tuned_model_is_written_as_its_base_was_in_equal_bytes(
    stored: Path, tmp_path: Path
) -> None:
    base = open_model_folder(str(stored))
    loaded = load_stored_model(str(stored), dtype="bfloat16")
    for name in ("first", "second"):
        write_model_folder(
            live_params(loaded.model),
            loaded.architecture,
            LINEAGE,
            base.contents,
            opener(tmp_path / name),
            base=base,
            max_shard_bytes=100_000,
        )
    files = {each.name: each.read_bytes() for each in (tmp_path / "first").iterdir()}
    assert files == {each.name: each.read_bytes() for each in (tmp_path / "second").iterdir()}
    assert "model.safetensors.index.json" in files
    again = load_stored_model(str(tmp_path / "first"))
    assert again.manifest.dtype == "float32"  # as in the base, whatever it was loaded as
    assert again.digest != loaded.digest  # other bits


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", lambda data: data[:-1], "holds .* bytes|is torn"),
        ("model.safetensors", lambda data: data[:-1] + b"x", "model.safetensors: sha256 is"),
        ("tokenizer.json", lambda data: data + b" ", "tokenizer.json: holds"),
        ("config.json", None, "config.json: is missing, but a record names it"),
        ("manifest.json", None, "manifest.json: missing, expected a model's manifest"),
    ],
)
def test_a_file_that_was_changed_is_named(
    name: str, change: Callable[[bytes], bytes] | None, message: str, stored: Path, tmp_path: Path
) -> None:
    for each in stored.iterdir():
        data = each.read_bytes()
        if each.name != name:
            (tmp_path / each.name).write_bytes(data)
        elif change is not None:
            (tmp_path / each.name).write_bytes(change(data))
    with pytest.raises((DataError, InputMissing), match=message):
        load_stored_model(str(tmp_path))


def test_the_files_may_be_elsewhere(stored: Path, tmp_path: Path) -> None:
    manifest = load_model_manifest(str(stored)).model_copy(update={"place": str(stored)})
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    assert load_stored_model(str(tmp_path)).folder.url == str(stored)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(stored: Path, tmp_path: Path) -> None:
    config = {**CONFIG, "vocab_size": 200}
    write_folder(tmp_path / "source", config)
    architecture = parse_config(config, "config.json")
    model = load_model(open_folder(str(tmp_path / "source")), architecture)
    params = live_params(model)
    write_model_folder(params, architecture, LINEAGE, DOCUMENTS, opener(tmp_path / "model"))
    with pytest.raises(
        DataError, match="the tokenizer needs 259 rows, expected at most the model's 200"
    ):
        load_stored_model(str(tmp_path / "model"))


def test_other_processes_write_nothing(stored: Path) -> None:
    base = open_model_folder(str(stored))
    architecture = base.manifest.architecture
    params = live_params(load_model(base.weights, architecture))
    manifest = write_model_folder(params, architecture, LINEAGE, base.contents, discard, base=base)
    assert isinstance(manifest, ModelManifest)
    assert manifest.weights_sha256 == base.manifest.weights_sha256
