"""Training, checkpoints and generation on one tiny model; each shape compiles once a machine."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from tests.builders import TINY_MODEL
from tuneloop.errors import DataError, Transient
from tuneloop.specs.model import Gemma3Spec, TokenizerSpec
from tuneloop.specs.training import OptimizerSpec, TrainSpec
from tuneloop.storage import files
from tuneloop.training.generation.sampler import Generator
from tuneloop.training.models import gemma3, model_files
from tuneloop.training.renderers import render_generation_prompt
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import loop, loss, metrics, optimizers
from tuneloop.training.sft.batches import TokenTable, build_token_table
from tuneloop.training.sft.distributed import Gang
from tuneloop.training.text.encode import tokenizer_sentences
from tuneloop.training.text.tokenizers import load_tokenizer, train_tokenizer

SPEC = TrainSpec(
    model=Gemma3Spec(**TINY_MODEL),
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


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    return train_tokenizer(tokenizer_sentences(EXAMPLES, None), SPEC.tokenizer)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_model: bytes) -> sentencepiece.SentencePieceProcessor:
    return load_tokenizer(tokenizer_model)


@pytest.fixture(scope="module")
def table(tokenizer: sentencepiece.SentencePieceProcessor) -> TokenTable:
    table, _ = build_token_table(
        (("x", e) for e in EXAMPLES),
        tokenizer,
        system_instruction=None,
        max_length_tokens=SPEC.max_length_tokens,
        over_length="fail",
    )
    return table


ALONE = Gang(processes=1, mesh=None)


def train(
    table: TokenTable, vocab_size: int, folder: Path, stop_after: int | None = None
) -> tuple[loop.Progress, bytes]:
    model = gemma3.build_model(SPEC.model, vocab_size, 0)
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
        gang=ALONE,
    )
    return progress, model_files.dump_weights(model)


@pytest.fixture(scope="module")
def undisturbed(
    table: TokenTable,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[loop.Progress, bytes]:
    return train(table, tokenizer.get_piece_size(), tmp_path_factory.mktemp("undisturbed"))


def without_times(progress: loop.Progress) -> list[tuple[Any, ...]]:
    return [(m.step, m.loss, m.learning_rate, m.grad_norm, m.tokens) for m in progress.metrics]


def test_loss_falls_and_every_step_is_reported(undisturbed: tuple[loop.Progress, bytes]) -> None:
    progress, _ = undisturbed
    assert progress.finished
    assert [m.step for m in progress.metrics] == list(range(1, 13))
    assert progress.metrics[-1].loss < progress.metrics[0].loss / 2
    assert progress.metrics[0].learning_rate == 0
    assert all(m.grad_norm > 0 and m.tokens > 8 and m.step_seconds > 0 for m in progress.metrics)


@pytest.mark.parametrize("stop_after", [2, 5])
def test_stopped_and_resumed_is_bit_identical(
    stop_after: int,
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
) -> None:
    stopped, _ = train(table, tokenizer.get_piece_size(), tmp_path, stop_after)
    assert not stopped.finished
    resumed, weights = train(table, tokenizer.get_piece_size(), tmp_path)
    assert resumed.finished
    assert resumed.resumed_from == len(stopped.metrics)
    assert without_times(resumed) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_a_checkpoint_without_its_metrics_is_not_resumed_from(
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
) -> None:
    """Killed right behind a save: the checkpoint is there, its line of metrics is not."""
    train(table, tokenizer.get_piece_size(), tmp_path, 7)
    url = str(tmp_path / "metrics.jsonl")
    lines = files.read(url).splitlines(keepends=True)
    files.write(url, b"".join(lines[:5]))
    resumed, weights = train(table, tokenizer.get_piece_size(), tmp_path)
    assert resumed.resumed_from == 4
    assert without_times(resumed) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_a_finished_training_is_restored_without_a_step(
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
) -> None:
    """Killed between the last step and the record."""
    train(table, tokenizer.get_piece_size(), tmp_path)
    again, weights = train(table, tokenizer.get_piece_size(), tmp_path)
    assert again.resumed_from == 12
    assert without_times(again) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_loss_is_the_mean_over_masked_targets() -> None:
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]]))

    def model(tokens: Any, positions: Any, cache: Any, mask: Any) -> tuple[Any, None]:
        return logits, None

    tokens = jnp.array([[1, 2, 1]])
    value = loss.response_loss(
        model,
        tokens,
        input_mask=jnp.array([[False, True, True]]),
        positions=None,  # type: ignore[arg-type]
        attention_mask=None,  # type: ignore[arg-type]
    )
    # Position 0 predicts token 2 with 0.25, position 1 predicts token 1 with 0.8.
    assert float(value) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2, rel=1e-5)
    only_last = loss.response_loss(
        model,
        tokens,
        input_mask=jnp.array([[False, False, True]]),
        positions=None,  # type: ignore[arg-type]
        attention_mask=None,  # type: ignore[arg-type]
    )
    assert float(only_last) == pytest.approx(-math.log(0.8), rel=1e-5)


def test_schedule_warms_up_and_decays() -> None:
    spec = OptimizerSpec(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.05)
    schedule = optimizers.learning_rate_schedule(spec, 50)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(1.0)
    assert float(schedule(50)) == pytest.approx(0.05)
    assert float(optimizers.learning_rate_schedule(spec, 1)(0)) == 0  # one step is possible


@pytest.fixture(scope="module")
def stored(
    undisturbed: tuple[loop.Progress, bytes],
    tokenizer_model: bytes,
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> dict[str, bytes]:
    base = model_files.dump_weights(gemma3.build_model(SPEC.model, tokenizer.get_piece_size(), 0))
    return {
        model_files.BASE_WEIGHTS: base,
        model_files.TUNED_WEIGHTS: undisturbed[1],
        model_files.TOKENIZER: tokenizer_model,
        model_files.DESCRIPTION: model_files.dump_description(
            SPEC.model, tokenizer.get_piece_size()
        ),
    }


def test_a_stored_model_comes_back_bit_by_bit(stored: dict[str, bytes]) -> None:
    model = model_files.load_model(stored, model_files.TUNED_WEIGHTS, "run")
    assert model_files.dump_weights(model.model) == stored[model_files.TUNED_WEIGHTS]
    assert model.digest == hashlib.sha256(stored[model_files.TUNED_WEIGHTS]).hexdigest()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (model_files.DESCRIPTION, b"{}", "run/model.json: model is missing"),
        (model_files.BASE_WEIGHTS, b"torn", "run/base.safetensors: not safetensors"),
        (model_files.TOKENIZER, b"torn", "no SentencePiece model"),
    ],
)
def test_broken_files_are_named(
    name: str, data: bytes, message: str, stored: dict[str, bytes]
) -> None:
    with pytest.raises(DataError, match=message):
        model_files.load_model({**stored, name: data}, model_files.BASE_WEIGHTS, "run")


def test_a_tokenizer_of_another_model_is_refused(stored: dict[str, bytes]) -> None:
    other = train_tokenizer(["some quite different text " * 40], TokenizerSpec(vocab_size=400))
    with pytest.raises(DataError, match="pieces, the model"):
        model_files.load_model(
            {**stored, model_files.TOKENIZER: other}, model_files.BASE_WEIGHTS, "run"
        )


BATCHES = range(2)


def test_generation_is_repeatable_and_follows_the_weights(stored: dict[str, bytes]) -> None:
    base = model_files.load_model(stored, model_files.BASE_WEIGHTS, "run")
    tuned = model_files.load_model(stored, model_files.TUNED_WEIGHTS, "run")
    prompts = [render_generation_prompt(f"Say {letter}") for letter in "abcdabcdab"]
    stops: list[int] = []
    generator = Generator(base, prompts, batch_size=8, max_new_tokens=8)
    first = generator.generate(lambda: stops.append(1), BATCHES)
    assert len(first) == 10
    assert len(stops) == 2  # asked before each of the two batches
    assert first[0] == first[4] == first[8]  # the same prompt, whatever shares its batch
    assert all(g.tokens <= 8 and g.hit_limit == (g.tokens >= 8) for g in first)
    generator.use(tuned)
    second = generator.generate(lambda: None, BATCHES)
    assert second != first
    assert all("Answer" in g.text for g in second)
    generator.use(base)
    assert generator.generate(lambda: None, BATCHES) == first
    parts = [generator.generate(lambda: None, range(n, n + 1)) for n in BATCHES]
    assert parts[0] + parts[1] == first  # a batch is the same whoever generates it


def test_generation_can_be_stopped_between_batches(stored: dict[str, bytes]) -> None:
    base = model_files.load_model(stored, model_files.BASE_WEIGHTS, "run")
    generator = Generator(base, ["x"], batch_size=8, max_new_tokens=8)

    def stop() -> None:
        raise Transient("stopped")

    with pytest.raises(Transient):
        generator.generate(stop, BATCHES)
    with pytest.raises(DataError, match="found no prompts"):
        Generator(base, [], batch_size=8, max_new_tokens=8)


def test_dumped_metrics_are_strict_json() -> None:
    row = metrics.StepMetrics(1, float(np.float32(0.1)), 0.0, 1.5, 10, 0.25)
    assert metrics.dump_metrics([row]) == (
        b'{"grad_norm":1.5,"learning_rate":0.0,"loss":0.10000000149011612,"step":1,'
        b'"step_seconds":0.25,"tokens":10}\n'
    )
