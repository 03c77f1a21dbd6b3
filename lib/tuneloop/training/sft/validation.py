"""Validation while training: the loss on held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from tuneloop.specs.training import TrainSpec, ValidationSpec
from tuneloop.training.sft.batches import (
    TokenTable,
    epoch_order,
    padded_length,
    sequential_batches,
)
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.sft.metrics import History


class Validation:
    """Computes the validation loss of a model, and decides when and what follows from it."""

    def __init__(
        self, table: TokenTable, train: TrainSpec, options: ValidationSpec, group: ProcessGroup
    ) -> None:
        """Choose the examples.

        Args:
            table: the encoded validation examples.
            train: batch shape. A batch has as many rows as a part of a training batch, so it needs
                no more memory.
            options: options of validation.
            group: the processes that train together.
        """
        self.options, self._group, self._table = options, group, table
        self._rows = chosen_rows(table, options.max_examples)
        self._batch_size = train.batch_size // train.accumulation_steps
        self._length = padded_length(table, train.max_length_tokens)

    @property
    def examples(self) -> int:
        """Count the examples that are used."""
        return len(self._rows)

    def is_due(self, step: int, history: History, *, is_last: bool) -> bool:
        """Return whether the model is validated after this step."""
        return step not in history.validation_losses and (
            is_last or step % self.options.every_steps == 0
        )

    def has_patience(self, history: History) -> bool:
        """Return whether training goes on after the validations so far."""
        patience = self.options.patience
        return patience is None or history.validations_since_best() < patience

    def measure(self, trainer: Any, should_stop: Callable[[], bool]) -> float | None:
        """Compute the validation loss: the mean over all response tokens, in nats.

        Args:
            trainer: the trainer, whose model is measured.
            should_stop: called before each batch; if it returns true, the result is None.
        """
        _, compute = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        found: list[tuple[jax.Array, jax.Array]] = []
        for batch in sequential_batches(
            self._table, rows=self._rows, batch_size=self._batch_size, length=self._length
        ):
            if should_stop():
                return None
            found.append(compute(self._group.place_batch(batch.arrays(), row_axis=0)))
        # Python's floats are float64, so the order of the batches hardly matters.
        return sum(float(total) for total, _ in found) / sum(float(count) for _, count in found)


def chosen_rows(table: TokenTable, max_examples: int | None) -> list[int]:
    """Return the rows that are used for validation, in reading order.

    The choice depends on the example ids alone: the seed does not change it, and an added example
    replaces at most one.
    """
    order = epoch_order(table.example_ids, seed=0, epoch=0)
    return sorted(order[:max_examples])
