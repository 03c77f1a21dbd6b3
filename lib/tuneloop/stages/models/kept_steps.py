"""Publish the weights of steps before the end of a training, as outputs of the train stage."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from tuneloop.specs.stages import TrainStage
from tuneloop.specs.training.method import LoraMethod
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.base import BaseModel, opener
from tuneloop.stages.models.steps import FOLDER
from tuneloop.stages.models.tuned import trained_card, tuned_documents_of, tuned_lineage, tuned_name
from tuneloop.training.models.lora.merge import adapters_of
from tuneloop.training.models.lora.peft import WEIGHTS
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.publish.card import ModelCard
from tuneloop.training.models.publish.hand_on import (
    adapter_documents,
    round_weights,
)
from tuneloop.training.models.stored import write_model_folder


def publish_step(model: Any, step: int, base: BaseModel, spec: TrainStage, stage: Stage) -> str:
    """Write the adapters of a step with LoRA, else the whole model.

    Every process of a group makes the same call; the first one writes. The weights are rounded in
    place, so restore the model before it is used again.

    Args:
        model: the model with the weights of the step, adapters not merged.
        step: number of finished steps.
        base: the model that training started from.
        spec: the stage's spec.
        stage: the train stage.

    Returns:
        The digest by which evaluations name the weights.
    """
    folder, method = f"{FOLDER}/{step}", spec.options.method
    about = _card(step, base, spec)
    weights = base.folder.weights if base.folder else None
    if isinstance(method, LoraMethod):
        adapters = adapters_of(model, method)
        about = replace(about, adapter_only=True)
        contents = adapter_documents(adapters, method, base.manifest, about, weights)
        for name, data in contents.items():
            stage.write_output(f"{folder}/{name}", data)
        named = f"{base.manifest.digest}\n{hashlib.sha256(contents[WEIGHTS]).hexdigest()}"
        return hashlib.sha256(named.encode()).hexdigest()
    round_weights(model, base.architecture, weights)
    manifest = write_model_folder(
        live_params(model),
        base.architecture,
        tuned_lineage(about.name, base),
        tuned_documents_of(base, about),
        opener(stage, folder),
        base=base.folder,
    )
    return manifest.digest


def _card(step: int, base: BaseModel, spec: TrainStage) -> ModelCard:
    """Collect the facts of the model card; the losses are in that of the tuned model."""
    name = f"{tuned_name(spec, base)}-step-{step}"
    training: dict[str, str | int | float] = {"method": spec.options.method.kind, "steps": step}
    return trained_card(spec, base, name, data={}, training=training)
