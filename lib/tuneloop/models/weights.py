"""Check a model's weights and run it; this module alone imports the code of model families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.models.selection import CONFIG, parse_json
from tuneloop.models.sources import Source
from tuneloop.specs.architecture import Architecture
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
