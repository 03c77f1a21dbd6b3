"""The model that a train stage starts from: stored weights, or random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tuneloop.artifacts.model_manifest import ModelManifest, load_referenced_model
from tuneloop.specs.stages import ModelRef, TrainStage
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import FullMethod
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.models.hf_writer import OpenFile
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.publish import text_files
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.registry import family_named
from tuneloop.training.models.stored import (
    Lineage,
    ModelFolder,
    discard,
    open_model_folder,
    verify_weights,
    write_model_folder,
)
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.tokenizers import TOKENIZER_MODEL
from tuneloop.training.text.trainer import tokenizer_sentences, train_tokenizer

BASE_FOLDER = "base"
"""First part of the names of the outputs that hold a base model with random weights."""


def opener(stage: Stage, folder: str) -> OpenFile:
    """Return a function that opens outputs of a folder, such as `model/config.json`.

    In a process group only the first process writes.
    """
    return discard if stage.process_index else lambda name: stage.output(f"{folder}/{name}")


@dataclass(frozen=True)
class BaseModel:
    """A base model, without its weights in memory."""

    manifest: ModelManifest
    chat_format: ChatFormat
    load: Callable[[], Any]
    """Build the model with its weights; each call builds another one."""
    folder: ModelFolder | None = None
    """The stored model, whose names and dtypes the tuned one keeps; None for random weights."""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """Random weights: tokenizer, chat template and generation settings for the tuned model."""

    @property
    def architecture(self) -> Architecture:
        """Family and shape."""
        return self.manifest.architecture


def open_stored(ref: ModelRef, options: TrainSpec, group: ProcessGroup) -> BaseModel:
    """Open the stored or tuned model that a run starts from.

    Args:
        ref: where the model is, and its digest.
        options: number format, method and thinking mode.
        group: devices that train together, over which the weights are split.

    Raises:
        InputMissing: the model is missing.
        DataError: the model was changed after the run was planned, or is broken.
        SpecError: the model cannot think, but the steps should be thoughts.
    """
    folder = open_model_folder(ref.folder, load_referenced_model(ref))
    chat_format = folder.chat_format(options.thinking)
    verify_weights(folder)
    architecture = folder.manifest.architecture
    # Weights that are trained are float32. Those beside adapters keep their own dtype if bfloat16
    # is computed, so that they are handed on with the same bits.
    is_exact = options.dtype == "float32" or isinstance(options.method, FullMethod)
    dtype = "float32" if is_exact else None

    def load() -> Any:
        return load_model(folder.weights, architecture, dtype=dtype, mesh=group.mesh)

    return BaseModel(folder.manifest, chat_format, load, folder)


def draw_random(
    spec: TrainStage, model: RandomModelSpec, examples: Iterable[TrainingExample], stage: Stage
) -> BaseModel:
    """Train a tokenizer, draw a model, and write both as the outputs `base/...`.

    Args:
        spec: the stage's spec.
        model: shape of the model.
        examples: training examples, from the start of the export.
        stage: the train stage.
    """
    options = spec.options
    sample = islice(examples, options.tokenizer.sample_examples)
    tokenizer_model = train_tokenizer(
        tokenizer_sentences(sample, spec.system_instruction), options.tokenizer
    )
    bare = load_chat_format({TOKENIZER_MODEL: tokenizer_model}, place=BASE_FOLDER)
    template = chat_template_named(family_named(model.family).chat_template)
    documents = text_files.trained_text_files(tokenizer_model, template, bare.stop_ids[0])
    architecture = random_architecture(model, bare.tokenizer.vocab_size)
    manifest = write_model_folder(
        live_params(build_random_model(architecture, spec.seed)),
        architecture,
        Lineage(
            name=f"random-{spec.fingerprint[:8]}",
            source=f"random weights, seed {spec.seed}",
            random_weights=True,
        ),
        documents,
        opener(stage, BASE_FOLDER),
    )
    return BaseModel(
        manifest,
        load_chat_format(documents, place=BASE_FOLDER, thinking=options.thinking),
        load=lambda: build_random_model(architecture, spec.seed),
        documents=documents,
    )
