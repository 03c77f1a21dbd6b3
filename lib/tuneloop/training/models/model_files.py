"""Read and write models as files: safetensors weights, a JSON description and the tokenizer.

The digest of a model is the sha256 of its weights file; equal weights give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentencepiece
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.specs.architecture import Architecture
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.models.parameters import flat_params, load_params
from tuneloop.training.models.registry import family_named
from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer
from tuneloop.validation import first_error

BASE_WEIGHTS = "base.safetensors"
TUNED_WEIGHTS = "tuned.safetensors"
TOKENIZER = "tokenizer.model"
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class StoredModel:
    """A model read from storage, with its tokenizer, description and digest."""

    model: Any
    tokenizer: sentencepiece.SentencePieceProcessor
    architecture: Architecture
    digest: str


def dump_weights(model: Any) -> bytes:
    """Serialize every parameter as safetensors, sorted by name."""
    data: bytes = safetensors_numpy.save(flat_params(model))
    return data


def dump_description(architecture: Architecture) -> bytes:
    """Serialize the model's architecture as `model.json`."""
    return architecture.model_dump_json(indent=1).encode() + b"\n"


def load_model(files: Mapping[str, bytes], weights_name: str, place: str) -> StoredModel:
    """Build a model from its files.

    Args:
        files: contents by name: the weights, `model.json` and `tokenizer.model`.
        weights_name: BASE_WEIGHTS or TUNED_WEIGHTS.
        place: prefix of the files, for error messages.

    Raises:
        DataError: a file is invalid, or the files are not from the same model.
    """
    try:
        architecture = Architecture.model_validate_json(files[DESCRIPTION])
        params: dict[str, np.ndarray] = safetensors_numpy.load(files[weights_name])
    except ValidationError as e:
        raise DataError(f"{place}/{DESCRIPTION}: {first_error(e)}; train again") from e
    except SafetensorError as e:
        raise DataError(f"{place}/{weights_name}: not safetensors ({e}); train again") from e
    family = family_named(architecture.family)
    template = chat_template_named(family.chat_template)
    tokenizer = load_tokenizer(files[TOKENIZER], template.turn_marks)
    if tokenizer.get_piece_size() != architecture.vocab_size:
        raise DataError(
            f"{place}/{TOKENIZER}: has {tokenizer.get_piece_size()} pieces, expected the model's"
            f" {architecture.vocab_size}; train again to write files that match"
        )
    model = family.module().abstract_model(architecture, "float32")
    load_params(model, params)
    return StoredModel(
        model=model,
        tokenizer=tokenizer,
        architecture=architecture,
        digest=hashlib.sha256(files[weights_name]).hexdigest(),
    )
