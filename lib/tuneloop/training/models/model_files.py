"""Models as files: safetensors weights, a JSON description and the tokenizer.

One rule: a model's digest is the sha256 of its weights file, and equal weights give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentencepiece
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.specs.model import Gemma3Spec
from tuneloop.training.models import gemma3
from tuneloop.training.text.tokenizers import load_tokenizer
from tuneloop.validation import first_error

BASE_WEIGHTS = "base.safetensors"
TUNED_WEIGHTS = "tuned.safetensors"
TOKENIZER = "tokenizer.model"
DESCRIPTION = "model.json"


class ModelDescription(BaseModel):
    """What weights do not say: the shape they belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Gemma3Spec
    vocab_size: int


@dataclass(frozen=True)
class StoredModel:
    """A model as it was read from storage."""

    model: Any
    tokenizer: sentencepiece.SentencePieceProcessor
    description: ModelDescription
    digest: str


def dump_weights(model: Any) -> bytes:
    """Serialize every parameter, sorted by name."""
    data: bytes = safetensors_numpy.save(gemma3.flat_params(model))
    return data


def dump_description(spec: Gemma3Spec, vocab_size: int) -> bytes:
    """Serialize the shape."""
    description = ModelDescription(model=spec, vocab_size=vocab_size)
    return description.model_dump_json(indent=1).encode() + b"\n"


def load_model(files: Mapping[str, bytes], weights_name: str, place: str) -> StoredModel:
    """Build a model from its files.

    Args:
        files: contents by name: the weights, `model.json` and `tokenizer.model`.
        weights_name: BASE_WEIGHTS or TUNED_WEIGHTS.
        place: what an error names.

    Raises:
        DataError: a file is broken or they do not belong together.
    """
    try:
        description = ModelDescription.model_validate_json(files[DESCRIPTION])
        params: dict[str, np.ndarray] = safetensors_numpy.load(files[weights_name])
    except ValidationError as e:
        raise DataError(f"{place}/{DESCRIPTION}: {first_error(e)}; train again") from e
    except SafetensorError as e:
        raise DataError(f"{place}/{weights_name}: not safetensors ({e}); train again") from e
    tokenizer = load_tokenizer(files[TOKENIZER])
    if tokenizer.get_piece_size() != description.vocab_size:
        raise DataError(
            f"{place}/{TOKENIZER}: has {tokenizer.get_piece_size()} pieces, the model"
            f" {description.vocab_size}; they do not belong together, train again"
        )
    return StoredModel(
        model=gemma3.build_model_from_params(description.model, description.vocab_size, params),
        tokenizer=tokenizer,
        description=description,
        digest=hashlib.sha256(files[weights_name]).hexdigest(),
    )
