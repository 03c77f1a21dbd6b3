"""One tiny training run that several test modules share, so that its shapes compile once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import numpy as safetensors_numpy

from tests.builders import TINY_MODEL
from tests.training.params import flat_params
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.model import RandomModelSpec, TokenizerSpec
from tuneloop.specs.training.optimizer import AdamWSpec
from tuneloop.specs.training.profiler import ProfilerSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.encoding import ChatEncoder, encode_blocks
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import loop
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.sft.earlier import EarlierRun
from tuneloop.training.text.chat_format import ChatFormat

MODEL = RandomModelSpec(**TINY_MODEL)
SPEC = TrainSpec(
    model=MODEL,
    tokenizer=TokenizerSpec(vocab_size=300),
    optimizer=AdamWSpec(learning_rate=0.02),
    steps=12,
    batch_size=8,
    max_length_tokens=48,
)
EXAMPLES = [
    TrainingExample(id=str(n), prompt=f"Say {'abcd'[n % 4]}", response=f"Answer: {'abcd'[n % 4]}")
    for n in range(16)
]


def architecture(vocab_size: int) -> Architecture:
    return random_architecture(MODEL, vocab_size)


def build_table(
    chat_format: ChatFormat,
    examples: Sequence[TrainingExample] = EXAMPLES,
) -> TokenTable:
    blocks = encode_blocks(
        (("x", e) for e in examples),
        ChatEncoder(chat_format, None),
        max_length_tokens=SPEC.max_length_tokens,
    )
    return join_blocks(blocks, pad_id=chat_format.pad_id)


def dump_params(model: Any) -> bytes:
    """Return all parameters as bytes, to compare models."""
    data: bytes = safetensors_numpy.save(flat_params(model))
    return data


ALONE = ProcessGroup(process_count=1, mesh=None)


def train(
    table: TokenTable,
    vocab_size: int,
    folder: Path,
    stop_after: int | None = None,
    *,
    held_out: TokenTable | None = None,
    earlier: EarlierRun | None = None,
    lora: LoraMethod | None = None,
    profiler: ProfilerSpec | None = None,
    publish_step: Callable[[int, Any], None] = lambda step, model: None,
    **changes: Any,
) -> tuple[loop.Progress, bytes]:
    """Train the tiny model; returns the progress and the weights, those of adapters too.

    Args:
        table: the examples.
        vocab_size: rows of the embedding.
        folder: folder for checkpoints and metrics.
        stop_after: number of reported steps after which training is asked to stop.
        held_out: the validation examples.
        earlier: training to continue.
        lora: adapters to train instead of the model's own weights.
        profiler: steps to trace; the trace goes to `profile` in the folder.
        publish_step: called with each kept step and the model.
        changes: keys of the train spec that differ from SPEC.
    """
    model: Any = build_random_model(architecture(vocab_size), 0)
    if lora is not None:
        model = apply_lora(model, architecture(vocab_size), lora, seed=0)
    seen: list[Any] = []
    options = SftOptions(
        TrainSpec.model_validate({**SPEC.model_dump(), **changes}),
        seed=0,
        resume_prefix=str(folder),
        checkpoint_every_steps=4,
        report=lambda row, total_steps: seen.append(row),
        should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
        process_group=ALONE,
        profiler=profiler,
        profile_url=str(folder / "profile"),
        publish_step=publish_step,
    )
    progress = loop.run_sft(model, table, options, validation=held_out, earlier=earlier)
    return progress, dump_params(model)
