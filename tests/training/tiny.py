"""One tiny training run that several test modules share, so that its shapes compile once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece

from tests.builders import TINY_MODEL
from tuneloop.specs.architecture import Architecture
from tuneloop.specs.model import RandomModelSpec, TokenizerSpec
from tuneloop.specs.training import OptimizerSpec, TrainSpec
from tuneloop.training.models import model_files
from tuneloop.training.models.families import gemma3
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import loop
from tuneloop.training.sft.batches import TokenTable, build_token_table
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.text.encode import encode_example
from tuneloop.training.text.trainer import PAD_ID

MODEL = RandomModelSpec(**TINY_MODEL)
SPEC = TrainSpec(
    model=MODEL,
    tokenizer=TokenizerSpec(vocab_size=300),
    optimizer=OptimizerSpec(learning_rate=0.02),
    steps=12,
    batch_size=8,
    max_length_tokens=48,
)
EXAMPLES = [
    TrainingExample(id=str(n), prompt=f"Say {'abcd'[n % 4]}", response=f"Answer: {'abcd'[n % 4]}")
    for n in range(16)
]


def architecture(vocab_size: int) -> Architecture:
    return gemma3.architecture_of(MODEL, vocab_size)


def build_table(tokenizer: sentencepiece.SentencePieceProcessor) -> TokenTable:
    table, _ = build_token_table(
        (("x", e) for e in EXAMPLES),
        lambda example: encode_example(tokenizer, example, None),
        pad_id=PAD_ID,
        max_length_tokens=SPEC.max_length_tokens,
    )
    return table


def model_file_contents(tokenizer: bytes, vocab_size: int, tuned: bytes) -> dict[str, bytes]:
    base = model_files.dump_weights(build_random_model(architecture(vocab_size), 0))
    return {
        model_files.BASE_WEIGHTS: base,
        model_files.TUNED_WEIGHTS: tuned,
        model_files.TOKENIZER: tokenizer,
        model_files.DESCRIPTION: model_files.dump_description(architecture(vocab_size)),
    }


ALONE = ProcessGroup(process_count=1, mesh=None)


def train(
    table: TokenTable, vocab_size: int, folder: Path, stop_after: int | None = None
) -> tuple[loop.Progress, bytes]:
    model = build_random_model(architecture(vocab_size), 0)
    seen: list[Any] = []
    progress = loop.run_sft(
        model,
        table,
        SPEC,
        seed=0,
        resume_prefix=str(folder),
        checkpoint_every_steps=4,
        report=seen.append,
        should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
        process_group=ALONE,
    )
    return progress, model_files.dump_weights(model)
