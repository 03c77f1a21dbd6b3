"""Check a model's weights and run it; this module alone imports the code of model families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.models.describe import CARD
from tuneloop.models.selection import CONFIG, parse_json
from tuneloop.models.sources import Source
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import paths

if TYPE_CHECKING:
    from tuneloop.training.models.check import CheckResult
    from tuneloop.training.models.hf_layout import CheckpointFiles


@dataclass(frozen=True)
class CheckedWeights:
    """What the headers of a model's weights say."""

    architecture: Architecture
    dtype: str
    """Dtype of most weights."""
    parameters: int
    """Number of parameters of the text model; tied embeddings count once."""


def check_weights(source: Source, weights: list[str], config: bytes) -> CheckedWeights:
    """Compare the tensors of a folder with the model that its config.json describes.

    Only the headers of the files are read.

    Args:
        source: the folder.
        weights: names of its safetensors files.
        config: content of its config.json.

    Raises:
        DataError: the family or a setting is not supported, a file is torn, or a tensor is missing,
            unknown or misshapen.
    """
    from tuneloop.training.models.hf_config import parse_config
    from tuneloop.training.models.hf_layout import open_folder
    from tuneloop.training.models.tensors import (
        check_tensors,
        count_parameters,
        most_common_dtype,
    )

    place = source.file_url(CONFIG)
    architecture = parse_config(parse_json(config, place), place)
    index = [name for name in source.names if name.endswith(".json")]
    folder = open_folder(source.url, [*weights, *index])
    check_tensors(folder, architecture)
    return CheckedWeights(architecture, most_common_dtype(folder), count_parameters(architecture))


def convert_gguf(path: Path, folder: Path, dtype: str, label: str) -> tuple[str, ...]:
    """Convert a GGUF file to a folder in Hugging Face layout, one tensor at a time.

    Args:
        path: local path of the file.
        folder: local folder that receives the files; it is created.
        dtype: dtype of the weights, such as `float32`, which keeps every bit of the expanded
            weights.
        label: where the file comes from, for error messages and the model card.

    Returns:
        The names of the files.

    Raises:
        DataError: the file is torn, or of a kind that is not supported.
    """
    from tuneloop.training.models.gguf import open_gguf
    from tuneloop.training.models.hf_writer import write_weights
    from tuneloop.training.text.gguf_vocabulary import vocabulary_files

    found = open_gguf(path, dtype)
    contents = vocabulary_files(found.fields, label)
    contents[CONFIG] = _dump(found.config)
    contents["generation_config.json"] = _dump(_stop_ids(found.fields))
    contents[CARD] = _card(found.fields, found.licence, label, dtype)
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    written = write_weights(found.tensors, lambda name: (folder / name).open("wb"))
    return (*contents, *written)


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _stop_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    def token_id(name: str) -> int | None:
        return fields.get(f"tokenizer.ggml.{name}_token_id")

    ends = dict.fromkeys(each for each in map(token_id, ("eos", "eot")) if each is not None)
    found = {"bos_token_id": token_id("bos"), "pad_token_id": token_id("padding")}
    return {
        **{key: value for key, value in found.items() if value is not None},
        **({"eos_token_id": list(ends)} if ends else {}),
    }


def _card(fields: Mapping[str, Any], licence: str | None, label: str, dtype: str) -> bytes:
    front = f"---\nlicense: {json.dumps(licence)}\n---\n\n" if licence else ""
    name = " ".join(str(fields.get("general.name", "Model")).split())
    file = label.rsplit("/", 1)[-1]
    return (
        f"{front}# {name}\n\nConverted from the GGUF file `{file}`. Its weights were expanded to"
        f" {dtype}; what was lost when they were quantized stays lost.\n"
    ).encode()


def open_weights(manifest: ModelManifest, folder: str) -> CheckpointFiles:
    """Open the weights of a stored model.

    Args:
        manifest: the model's manifest.
        folder: the folder of the manifest.
    """
    from tuneloop.training.models.hf_layout import open_folder

    return open_folder(manifest.place or folder, [file.name for file in manifest.files])


def check_against(manifest: ModelManifest, folder: str, reference: str) -> CheckResult:
    """Compare the logits and greedy tokens of a stored model with a reference, in float32.

    Args:
        manifest: the model's manifest.
        folder: the folder of the manifest.
        reference: URL of an npz file with ids, logits and gen, which another program computed.

    Raises:
        DataError: the reference is missing, malformed, or of another model.
    """
    from tuneloop.training.models.check import check_model, load_reference
    from tuneloop.training.models.loading import load_model

    expected = load_reference(paths.absolute(reference))
    weights = open_weights(manifest, folder)
    model = load_model(weights, manifest.architecture, dtype="float32")
    return check_model(model, expected, manifest.name)
