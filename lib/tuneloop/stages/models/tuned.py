"""Publish the tuned model: merge adapters, write the model folder, and read it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.artifacts.results import ExportCounts, TrainCounts, TrainResults
from tuneloop.specs.stages import TrainStage
from tuneloop.specs.training.method import LoraMethod
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.base import BASE_FOLDER, BaseModel, opener
from tuneloop.storage import paths
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.lora.merge import Adapter, merge_trained
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.publish import card, parity
from tuneloop.training.models.publish.adapter_parity import check_adapter
from tuneloop.training.models.publish.hand_on import (
    adapter_documents,
    base_reference,
    round_weights,
    tuned_documents,
)
from tuneloop.training.models.publish.parity import Parity
from tuneloop.training.models.stored import Lineage, write_model_folder

MODEL_FOLDER, ADAPTER_FOLDER = "model", "adapter"
"""First parts of the names of the outputs: the tuned model, and its adapter for PEFT."""


def take_adapters(model: Any, base: BaseModel, spec: TrainStage) -> tuple[Any, dict[str, Adapter]]:
    """Return the tuned model without adapters, and the adapters that were merged into it.

    Args:
        model: the trained model; do not use it afterwards.
        base: the model that training started from.
        spec: the stage's spec.
    """
    return merge_trained(model, spec.options.method, base.load)


def publish(
    model: Any,
    adapters: dict[str, Adapter],
    base: BaseModel,
    spec: TrainStage,
    stage: Stage,
    facts: card.ModelCard,
) -> tuple[ModelManifest, list[Parity]]:
    """Write `model/...` and, for LoRA, `adapter/...`; check what was written.

    Every process of a group makes the same call; the first one writes and checks.

    Args:
        model: the tuned model, with adapters merged.
        adapters: the merged adapters; empty if all weights were trained.
        base: the model that training started from.
        spec: the stage's spec.
        stage: the train stage.
        facts: content of the model card.

    Returns:
        The manifest of the model, and what each reader found.

    Raises:
        DataError: the written model computes something else than the one in memory.
    """
    folder, architecture = base.folder, base.architecture
    round_weights(model, architecture, folder.weights if folder else None)
    reference = parity.make_reference(model, architecture)
    manifest = write_model_folder(
        live_params(model),
        architecture,
        tuned_lineage(facts.name, base),
        tuned_documents_of(base, facts),
        opener(stage, MODEL_FOLDER),
        base=folder,
    )
    method = spec.options.method
    contents: dict[str, bytes] = {}
    if isinstance(method, LoraMethod):
        about_adapter = replace(facts, adapter_only=True)
        weights = folder.weights if folder else None
        contents = adapter_documents(adapters, method, base.manifest, about_adapter, weights)
        for name, data in contents.items():
            stage.write_output(f"{ADAPTER_FOLDER}/{name}", data)
    if stage.process_index:
        return manifest, []
    dtypes = {str(array.dtype) for array in live_params(model).values()}
    dtype = "float32" if dtypes == {"float32"} else None
    del model
    url = _written(stage, MODEL_FOLDER)
    found = parity.check_folder(url, architecture, reference, dtype=dtype)
    if contents:
        before = folder.weights if folder else open_folder(_written(stage, BASE_FOLDER))
        place = _written(stage, ADAPTER_FOLDER)
        found.append(check_adapter(contents, before, open_folder(url), place))
    return manifest, found


def _written(stage: Stage, folder: str) -> str:
    """Return the URL of a folder of this attempt's outputs."""
    return paths.join(stage.prefix, "attempts", stage.attempt, folder)


def tuned_lineage(name: str, base: BaseModel) -> Lineage:
    """Return where a model that was tuned from a base comes from."""
    return Lineage(
        name=name,
        source=base.manifest.source,
        licence=base.manifest.licence,
        random_weights=base.manifest.random_weights,
        base=None if base.manifest.random_weights else base.manifest.name,
    )


def tuned_documents_of(base: BaseModel, facts: card.ModelCard) -> dict[str, bytes]:
    """Return all files of a tuned model but weights, config.json and manifest."""
    if base.folder is None:
        return {**base.documents, card.NAME: card.render_card(facts)}
    return tuned_documents(base.folder, base.chat_format.stop_ids, facts)


def model_card(
    spec: TrainStage,
    base: BaseModel,
    exported: ExportCounts,
    counts: TrainCounts,
    results: TrainResults,
) -> card.ModelCard:
    """Collect the facts of the model card; equal fingerprints give equal cards."""
    options = spec.options
    training: dict[str, str | int | float] = {"method": options.method.kind}
    if isinstance(options.method, LoraMethod):
        training |= {"rank": options.method.rank, "alpha": options.method.alpha}
    training |= {
        "optimizer": options.optimizer.kind,
        "learning_rate": options.optimizer.learning_rate,
        "steps": counts.steps,
        "batch_size": options.batch_size,
        "first_loss": results.loss_first,
        "last_loss": results.loss_last,
    }
    accounts = exported.model_dump()
    kept = {name: accounts.pop(name) for name in ("traces", "examples", "validation_examples")}
    data = {
        **kept,
        "tokens": counts.tokens,
        "trained_tokens": counts.trained_tokens,
        **{name: value for name, value in accounts.items() if name.startswith("excluded_")},
        "truncated": accounts["truncated"],
    }
    return trained_card(spec, base, tuned_name(spec, base), data=data, training=training)


def trained_card(
    spec: TrainStage,
    base: BaseModel,
    name: str,
    *,
    data: dict[str, int],
    training: dict[str, str | int | float],
) -> card.ModelCard:
    """Return the facts of the card of weights that a training has made.

    Args:
        spec: spec of the train stage.
        base: the model that training started from.
        name: name of the weights.
        data: counts of the training data.
        training: settings and results.
    """
    return card.ModelCard(
        name=name,
        family=base.architecture.family,
        parameters=base.manifest.parameters,
        dtype=base.manifest.dtype,
        base=None if base.manifest.random_weights else base_reference(base.manifest),
        licence=base.manifest.licence,
        random_weights=base.manifest.random_weights,
        lineage={
            "dataset": spec.dataset.key,
            "dataset build": spec.dataset.build_id,
            "recipe": spec.dataset.recipe,
            "seed": spec.seed,
            "training fingerprint": spec.fingerprint,
        },
        data=data,
        training=training,
    )


def tuned_name(spec: TrainStage, base: BaseModel) -> str:
    """Name the tuned model after its base and its training, not after a run: runs share both."""
    before = "random" if spec.model is None else base.manifest.name
    return f"{before}-tuned-{spec.fingerprint[:8]}"
