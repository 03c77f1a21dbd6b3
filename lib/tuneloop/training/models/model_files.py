"""Models as files: safetensors weights, a JSON description and the tokenizer.

The digest of a model is the sha256 of its weights file. Equal weights give equal bytes.
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
    """Read a model spec with the spec class of its family."""
    if not isinstance(value, dict):
        return value
    kind = str(value.get("kind"))
    if kind not in FAMILIES:
        raise ValueError(f"kind is {kind!r}, expected one of: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind].spec_class.model_validate(value)


class ModelDescription(BaseModel):
    """`model.json`: what the weights file does not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[SerializeAsAny[ModelSpecBase], BeforeValidator(_spec_of_its_kind)]
    """Kind and shape of the network."""
    vocab_size: int
    """Rows of the embedding."""

    @property
    def family(self) -> ModelFamily:
        """The model's row in the table of families."""
        return family_named(self.model.kind)


@dataclass(frozen=True)
class StoredModel:
    """A model that was read from storage."""

    model: Any
    tokenizer: sentencepiece.SentencePieceProcessor
    description: ModelDescription
    digest: str


def dump_weights(model: Any) -> bytes:
    """Serialize every parameter, sorted by name."""
    data: bytes = safetensors_numpy.save(flat_params(model))
    return data


def dump_description(spec: ModelSpecBase, vocab_size: int) -> bytes:
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
    family = description.family
    template = chat_template_named(family.chat_template)
    tokenizer = load_tokenizer(files[TOKENIZER], template.turn_marks)
    if tokenizer.get_piece_size() != description.vocab_size:
        raise DataError(
            f"{place}/{TOKENIZER}: has {tokenizer.get_piece_size()} pieces, the model"
            f" {description.vocab_size}; they do not belong together, train again"
        )
    return StoredModel(
        model=family.module().build_model_from_params(
            description.model, description.vocab_size, params
        ),
        tokenizer=tokenizer,
        description=description,
        digest=hashlib.sha256(files[weights_name]).hexdigest(),
    )
