"""The two models of an evaluation: the base and the tuned one, opened without their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuneloop.artifacts import records
from tuneloop.specs.architecture import Architecture
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.context import Stage
from tuneloop.training.models import model_files
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format


@dataclass(frozen=True)
class EvaluatedModel:
    """A model whose weights are loaded only when it is asked."""

    architecture: Architecture
    chat_format: ChatFormat
    load: Callable[[], Any]
    """Load the model with its weights."""


def open_models(spec: EvalStage, stage: Stage) -> tuple[EvaluatedModel, EvaluatedModel]:
    """Open the base model and the tuned model of the train stage.

    Raises:
        DataError: a file of a model is broken.
    """
    train = stage.upstream("train")

    def read(name: str) -> bytes:
        return records.read_output(train.output(name), stage.artifacts)

    place = f"record of {train.run_id}/train"
    architecture = Architecture.model_validate_json(read(model_files.DESCRIPTION))
    tokenizer = {model_files.TOKENIZER: read(model_files.TOKENIZER)}
    chat_format = load_chat_format(tokenizer, place=place)

    def load(weights: str) -> Any:
        names = (weights, model_files.TOKENIZER, model_files.DESCRIPTION)
        contents = {name: read(name) for name in names}
        return model_files.load_model(contents, weights, place).model

    return EvaluatedModel(
        architecture, chat_format, load=lambda: load(model_files.BASE_WEIGHTS)
    ), EvaluatedModel(architecture, chat_format, load=lambda: load(model_files.TUNED_WEIGHTS))
