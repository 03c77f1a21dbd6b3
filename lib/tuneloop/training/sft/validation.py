"""Validation while training: the loss on held-out examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tuneloop.specs.training.train import TrainSpec, ValidationSpec
from tuneloop.training.data.batches import Rows
from tuneloop.training.data.table import ExampleIds, TokenTable, encode_id
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
            train: batch shape and packing. A batch has as many rows as a part of a training batch,
                so it needs no more memory.
            options: options of validation.
            group: the processes that train together.
        """
        self.options, self._group = options, group
        chosen = chosen_examples(table.example_ids, options.max_examples)
        batch_size = train.batch_size // train.accumulation_steps
        self._rows = Rows(table, train, batch_size=batch_size, chosen=chosen)

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
        for batch in self._rows.in_order():
            if should_stop():
                return None
            found.append(compute(self._group.place_batch(batch.arrays(), row_axis=0)))
        # Python's floats are float64, so the order of the batches hardly matters.
        return sum(float(total) for total, _ in found) / sum(float(count) for _, count in found)


def chosen_examples(ids: ExampleIds, max_examples: int | None) -> np.ndarray:
    """Return the numbers of the examples that are used for validation, in reading order.

    The choice depends on the example ids alone: the seed does not change it, and an added example
    replaces at most one.

    Args:
        ids: example ids; of equal ids, the first one is chosen first.
        max_examples: number of examples; None chooses all.
    """
    if max_examples is None or max_examples >= len(ids):
        return np.arange(len(ids))
    digests = bytearray()
    for number in range(len(ids)):
        data = encode_id(ids[number])
        digests += hashlib.blake2b(data, digest_size=16, key=b"0/0").digest()
    ranks = np.frombuffer(digests, ">u8").reshape(-1, 2)
    return np.sort(np.lexsort((ranks[:, 1], ranks[:, 0]))[:max_examples])
