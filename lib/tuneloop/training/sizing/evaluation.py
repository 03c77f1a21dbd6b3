"""Host memory and least time of the eval stage, in closed form.

The constants were measured as peak resident memory of eval stages on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuneloop.specs.architecture import Architecture
from tuneloop.specs.compilation import Chip
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.training import TrainSpec
from tuneloop.training.sizing.host_memory import RUNTIME, RUNTIME_OF_CHIPS, largest_weight
from tuneloop.training.sizing.parameters import parameter_count

_FLOAT32 = 4
_COPIES = 2
"""Copies of one model's weights in float32 on a CPU, at the most: the two models are loaded one
after the other, and a file is read while its arrays are made."""
_TOKEN_SECONDS = 0.01
"""Least time of one token of a batch: small models wait for the host, not for their memory."""


def eval_host_bytes(
    options: EvalSpec, train: TrainSpec, architecture: Architecture, *, has_chip: bool
) -> int:
    """Estimate the host memory of one pod of the eval stage in bytes.

    Args:
        options: batch size and length of the answers.
        train: options of the train stage, whose limit holds for prompt and answer.
        architecture: family and shape of the model.
        has_chip: whether the pod has an accelerator, which holds the weights.
    """
    if has_chip:
        # The array that is read, and its copy on the way to the device.
        return RUNTIME_OF_CHIPS + 2 * _FLOAT32 * largest_weight(architecture)
    a = architecture
    own = (each.max_new_tokens or 0 for each in options.all_sets)
    length = train.max_length_tokens + max(_new_tokens(options, train), *own)
    cache = 2 * _FLOAT32 * options.batch_size * length * a.num_layers * a.num_kv_heads * a.head_dim
    logits = _FLOAT32 * options.batch_size * train.max_length_tokens * a.vocab_size
    return RUNTIME + _COPIES * _FLOAT32 * parameter_count(a) + 2 * (cache + logits)


def eval_seconds(
    options: EvalSpec,
    train: TrainSpec,
    architecture: Architecture,
    chip: Chip | None,
    *,
    items: Sequence[int],
) -> float | None:
    """Estimate the least time in which one chip answers all questions of an evaluation.

    Args:
        options: batch size and length of the answers.
        train: options of the train stage, whose limit holds for an answer without one of its own.
        architecture: family and shape of the model.
        chip: the device; None for a CPU.
        items: questions of each of the sets, in the order of the options.

    Returns:
        None on a CPU, and if the bandwidth of the chip's memory is not known.
    """
    if chip is None or chip.bytes_per_second is None:
        return None
    # Each token of a batch reads all weights.
    token = max(_TOKEN_SECONDS, _FLOAT32 * parameter_count(architecture) / chip.bytes_per_second)
    models = 2 + len(options.baselines)
    tokens = 0
    for each, questions in zip(options.all_sets, items, strict=True):
        passes = models + (1 if options.base_examples and each.instruction else 0)
        batches = math.ceil(questions * each.samples / options.batch_size)
        tokens += passes * batches * (each.max_new_tokens or _new_tokens(options, train))
    return tokens * token


def _new_tokens(options: EvalSpec, train: TrainSpec) -> int:
    return options.max_new_tokens or train.max_length_tokens
