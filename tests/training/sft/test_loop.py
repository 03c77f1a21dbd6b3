"""Training and checkpoints of one tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import dump_params, train
from tuneloop.storage import files
from tuneloop.training.data.table import TokenTable
from tuneloop.training.models.parameters import param_items
from tuneloop.training.sft import loop
from tuneloop.training.text.chat_format import ChatFormat


def without_times(progress: loop.Progress) -> list[tuple[Any, ...]]:
    return [
        (m.step, m.loss, m.learning_rate, m.grad_norm, m.tokens, m.validation_loss)
        for m in progress.metrics
    ]


def test_loss_falls_and_every_step_is_reported(undisturbed: tuple[loop.Progress, bytes]) -> None:
    progress, _ = undisturbed
    assert progress.finished
    assert [m.step for m in progress.metrics] == list(range(1, 13))
    assert progress.metrics[-1].loss < progress.metrics[0].loss / 2
    assert progress.metrics[0].learning_rate == 0
    assert all(m.grad_norm > 0 and m.tokens > 8 and m.step_seconds > 0 for m in progress.metrics)
    assert all(0 < m.padding_share < 1 for m in progress.metrics)
    assert progress.metrics[0].tokens_per_second == pytest.approx(
        progress.metrics[0].tokens / progress.metrics[0].step_seconds
    )
    compiling = [m.compile_seconds for m in progress.metrics]
    assert compiling[0] and compiling[0] < progress.metrics[0].step_seconds
    assert compiling[2:] == [0.0] * 10
    waits = [m.data_wait_seconds for m in progress.metrics]
    assert all(wait is not None and 0 < wait < 1 for wait in waits)
    assert [m.mfu for m in progress.metrics] == [None] * 12
    assert not progress.stopped_early
    assert progress.kept_step == progress.total_steps == 12


@pytest.mark.parametrize("stop_after", [2, 5])
def test_stopped_and_resumed_is_bit_identical(
    stop_after: int,
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    chat_format: ChatFormat,
    tmp_path: Path,
) -> None:
    stopped, _ = train(table, chat_format.tokenizer.vocab_size, tmp_path, stop_after)
    assert not stopped.finished
    resumed, weights = train(table, chat_format.tokenizer.vocab_size, tmp_path)
    assert resumed.finished
    assert resumed.resumed_from == len(stopped.metrics)
    assert without_times(resumed) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_a_checkpoint_without_its_metrics_is_not_resumed_from(
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    chat_format: ChatFormat,
    tmp_path: Path,
) -> None:
    """The process is killed right after a save: the checkpoint exists, but its metrics do not."""
    train(table, chat_format.tokenizer.vocab_size, tmp_path, 7)
    url = str(tmp_path / "metrics.jsonl")
    lines = files.read(url).splitlines(keepends=True)
    files.write(url, b"".join(lines[:5]))
    resumed, weights = train(table, chat_format.tokenizer.vocab_size, tmp_path)
    assert resumed.resumed_from == 4
    assert without_times(resumed) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_a_finished_training_is_restored_without_a_step(
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    chat_format: ChatFormat,
    tmp_path: Path,
) -> None:
    """The process is killed between the last step and the record."""
    train(table, chat_format.tokenizer.vocab_size, tmp_path)
    again, weights = train(table, chat_format.tokenizer.vocab_size, tmp_path)
    assert again.resumed_from == 12
    assert without_times(again) == without_times(undisturbed[0])
    assert weights == undisturbed[1]


def test_kept_steps_are_published_after_an_interruption_and_do_not_change_the_result(
    undisturbed: tuple[loop.Progress, bytes],
    table: TokenTable,
    chat_format: ChatFormat,
    tmp_path: Path,
) -> None:
    published: list[tuple[int, bytes]] = []

    def publish(step: int, model: Any) -> None:
        published.append((step, dump_params(model)))
        for _, variable in param_items(model):  # as rounding does
            variable.set_value(variable.get_value() * 0)

    def run(folder: str, stop_after: int | None = None) -> tuple[loop.Progress, bytes]:
        return train(
            *(table, chat_format.tokenizer.vocab_size, tmp_path / folder, stop_after),
            publish_step=publish,
            keep_checkpoints=[3, 10],
        )

    whole, weights = run("whole")
    assert [step for step, _ in published] == [3, 10]
    assert without_times(whole) == without_times(undisturbed[0])
    assert weights == undisturbed[1] and whole.kept_step == 12
    expected, published[:] = list(published), []
    stopped, _ = run("stopped", 6)
    assert not stopped.finished and published == []
    assert run("stopped")[1] == weights and published == expected
    published.clear()
    assert run("stopped")[1] == weights and published == expected  # killed before the record
