"""The models of an evaluation: base, baselines and the tuned one, opened without their weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuneloop.artifacts import records
from tuneloop.artifacts.model_manifest import MANIFEST, load_referenced_model, parse_model_manifest
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainResults
from tuneloop.specs.stages import EvalStage, ModelRef
from tuneloop.specs.training.architecture import Architecture
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.steps import FOLDER, checkpoint_name, checkpoint_steps
from tuneloop.storage import paths
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.lora.add_peft import add_peft_adapter
from tuneloop.training.models.lora.peft import CONFIG, WEIGHTS
from tuneloop.training.models.stored import ModelFolder, open_model_folder, verify_weights
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.text.layout import Thinking

TUNED_FOLDER, BASE_FOLDER = "model", "base"
"""First parts of the names of the train stage's outputs that hold a model."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model whose weights are loaded only when it is asked."""

    architecture: Architecture
    chat_format: ChatFormat
    load: Callable[[], Any]
    """Load the model with its weights."""


def open_models(spec: EvalStage, stage: Stage) -> dict[str, EvaluatedModel]:
    """Open the base model, the baselines, and the tuned model of the train stage.

    Returns:
        `base`, the names of the baselines, and `tuned` -> the model, in this order.

    Raises:
        InputMissing: the base model or a baseline is gone.
        DataError: a file of a model is broken, or a stored model was changed.
    """
    train = stage.upstream("train")
    if spec.model is None:
        base = _open_output(train, BASE_FOLDER, stage)
    else:
        base = open_model_folder(spec.model.folder, load_referenced_model(spec.model))
    found = {"base": base}
    for name, ref in spec.baselines.items():
        found[name] = open_model_folder(ref.folder, load_referenced_model(ref))
    tuned = _open_output(train, TUNED_FOLDER, stage)
    opened = {name: _evaluated(folder, spec.thinking) for name, folder in found.items()}
    for step in checkpoint_steps(spec, train.results_as(TrainResults)):
        opened[checkpoint_name(step)] = _open_checkpoint(step, base, tuned, spec, stage)
    return {**opened, "tuned": _evaluated(tuned, spec.thinking)}


def _open_checkpoint(
    step: int, base: ModelFolder, tuned: ModelFolder, spec: EvalStage, stage: Stage
) -> EvaluatedModel:
    """Open the weights of a step of the training: a model, or the base with an adapter."""
    train, folder = stage.upstream("train"), f"{FOLDER}/{step}"
    if not train.outputs_like(f"{folder}/{CONFIG}"):
        return _evaluated(_open_output(train, folder, stage), spec.thinking)
    config = json.loads(records.read_output(train.output(f"{folder}/{CONFIG}"), stage.artifacts))
    file = train.output(f"{folder}/{WEIGHTS}")
    architecture = base.manifest.architecture

    def load() -> Any:
        verify_weights(base)
        model = load_model(base.weights, architecture)
        weights = records.read_output(file, stage.artifacts)
        scale = config["lora_alpha"] / config["r"]
        add_peft_adapter(model, architecture.family, base.weights, weights, scale, file.path)
        return model

    return EvaluatedModel(architecture, tuned.chat_format(spec.thinking), load)


def open_referenced(ref: ModelRef, thinking: Thinking) -> EvaluatedModel:
    """Open a stored model, or one that a run has written.

    Args:
        ref: where the model is, and its digest.
        thinking: thinking mode of its prompts and answers.

    Raises:
        InputMissing: the model is gone.
        DataError: a file of the model is broken, or the model was changed.
    """
    return _evaluated(open_model_folder(ref.folder, load_referenced_model(ref)), thinking)


def _open_output(train: Record, name: str, stage: Stage) -> ModelFolder:
    """Open a model that the train stage wrote, through the manifest that its record verifies."""
    file = train.output(f"{name}/{MANIFEST}")
    place = paths.join(stage.artifacts, file.path)
    manifest = parse_model_manifest(records.read_output(file, stage.artifacts), place)
    return open_model_folder(place.removesuffix(f"/{MANIFEST}"), manifest)


def _evaluated(folder: ModelFolder, thinking: Thinking) -> EvaluatedModel:
    def load() -> Any:
        verify_weights(folder)
        return load_model(folder.weights, folder.manifest.architecture)

    return EvaluatedModel(folder.manifest.architecture, folder.chat_format(thinking), load)
