"""Read and write models as files: safetensors weights, a JSON description and the tokenizer.

The digest of a model is the sha256 of its weights file; equal weights give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import sentencepiece
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.specs.model import ModelSpecBase
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.models.parameters import flat_params
from tuneloop.training.models.registry import FAMILIES, ModelFamily, family_named
from tuneloop.training.text.tokenizers import load_tokenizer
from tuneloop.validation import first_error

BASE_WEIGHTS = "base.safetensors"
TUNED_WEIGHTS = "tuned.safetensors"
TOKENIZER = "tokenizer.model"
DESCRIPTION = "model.json"


def _spec_of_its_kind(value: Any) -> Any:
    """Validate a model spec with the spec class of its family."""
    if not isinstance(value, dict):
        return value
    kind = str(value.get("kind"))
    if kind not in FAMILIES:
        raise ValueError(f"kind is {kind!r}, expected one of: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind].spec_class.model_validate(value)


class ModelDescription(BaseModel):
    """Content of `model.json`: the architecture that belongs to the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[SerializeAsAny[ModelSpecBase], BeforeValidator(_spec_of_its_kind)]
    """Kind and shape of the network."""
    vocab_size: int
    """Rows of the embedding."""

    @property
    def family(self) -> ModelFamily:
        """Return the model's row in the table of families."""
        return family_named(self.model.kind)


@dataclass(frozen=True)
class StoredModel:
    """A model read from storage, with its tokenizer, description and digest."""

    model: Any
    tokenizer: sentencepiece.SentencePieceProcessor
    description: ModelDescription
    digest: str


def dump_weights(model: Any) -> bytes:
    """Serialize every parameter as safetensors, sorted by name."""
    data: bytes = safetensors_numpy.save(flat_params(model))
    return data


def dump_description(spec: ModelSpecBase, vocab_size: int) -> bytes:
    """Serialize the model's spec and vocabulary size as `model.json`."""
    description = ModelDescription(model=spec, vocab_size=vocab_size)
    return description.model_dump_json(indent=1).encode() + b"\n"


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
        description = ModelDescription.model_validate_json(files[DESCRIPTION])
        params: dict[str, np.ndarray] = safetensors_numpy.load(files[weights_name])
    except ValidationError as e:
        raise DataError(f"{place}/{DESCRIPTION}: {first_error(e)}; train again") from e
    except SafetensorError as e:
        raise DataError(f"{place}/{weights_name}: not safetensors ({e}); train again") from e
    family = description.family
    template = chat_template_named(family.chat_template)
    tokenizer = load_tokenizer(files[TOKENIZER], template.turn_marks)
    if tokenizer.get_piece_size() != description.vocab_size:
        raise DataError(
            f"{place}/{TOKENIZER}: has {tokenizer.get_piece_size()} pieces, expected the model's"
            f" {description.vocab_size}; train again to write files that match"
        )
    return StoredModel(
        model=family.module().build_model_from_params(
            description.model, description.vocab_size, params
        ),
        tokenizer=tokenizer,
        description=description,
        digest=hashlib.sha256(files[weights_name]).hexdigest(),
    )
