"""Host memory and least time of the eval stage, in closed form.

The constants were measured as peak resident memory of eval stages on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import Chip
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.host_memory import RUNTIME, RUNTIME_OF_CHIPS, largest_weight
from tuneloop.training.sizing.parameters import parameter_count

_FLOAT32 = 4
_COPIES = 2
"""Copies of one model's weights in float32 on a CPU, at the most: the two models are loaded one
after the other, and a file is read while its arrays are made."""
CPU_ROWS, MOST_ROWS = 64, 512
"""Rows of a batch that are chosen on a CPU, and the most on other devices. On a CPU, more rows make
nothing faster; measured with small models."""
USED_SHARE = 0.8
"""Part of a device's memory that is planned for."""
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
    lengths = train.max_length_tokens, longest_answer(options, train)
    copies = _COPIES + int(options.stop_early)  # base and tuned model stay in memory
    return _host_bytes(architecture, options.batch_size, *lengths, copies, has_chip=has_chip)


def _host_bytes(
    architecture: Architecture,
    batch_size: int | Literal["auto"],
    prompt_tokens: int,
    new_tokens: int,
    copies: int,
    *,
    has_chip: bool,
) -> int:
    if has_chip:
        # The array that is read, and its copy on the way to the device.
        return RUNTIME_OF_CHIPS + 2 * _FLOAT32 * largest_weight(architecture)
    rows = CPU_ROWS if batch_size == "auto" else batch_size
    batch = batch_bytes(architecture, rows, prompt_tokens, new_tokens)
    return RUNTIME + copies * weight_bytes(architecture) + batch


def sample_host_bytes(
    architecture: Architecture,
    batch_size: int | Literal["auto"],
    prompt_tokens: int,
    new_tokens: int,
    chip: Chip | None,
) -> int:
    """Estimate the host memory of one pod of the sample stage in bytes.

    Args:
        architecture: family and shape of the model.
        batch_size: rows of a batch.
        prompt_tokens: tokens of the longest prompt.
        new_tokens: tokens of a completion at most.
        chip: the device; None for a CPU.
    """
    lengths = prompt_tokens, new_tokens
    return _host_bytes(architecture, batch_size, *lengths, _COPIES, has_chip=chip is not None)


def weight_bytes(architecture: Architecture) -> int:
    """Return the bytes of one model's weights, which answer in float32."""
    return _FLOAT32 * parameter_count(architecture)


def batch_bytes(architecture: Architecture, rows: int, prompt_tokens: int, new_tokens: int) -> int:
    """Estimate the memory of a device that one batch needs beside the weights, in bytes.

    The sum follows from the largest arrays of the compiled programs; a test compares it with what
    the compiler reports.

    Args:
        architecture: family and shape of the model.
        rows: rows of the batch.
        prompt_tokens: padded length of the prompts.
        new_tokens: tokens of an answer at most.
    """
    a = architecture
    heads = a.num_kv_heads * a.head_dim
    cache = 2 * rows * (prompt_tokens + new_tokens) * a.num_layers * heads
    scores = 2 * rows * a.num_heads * prompt_tokens**2
    layer = 3 * a.hidden_dim + 4 * a.embed_dim + 2 * (a.num_heads * a.head_dim + heads)
    logits = 3 * rows * a.vocab_size  # of the last position alone
    return _FLOAT32 * (cache + scores + rows * prompt_tokens * layer + logits)


def largest_rows(
    architecture: Architecture, limit_bytes: int, prompt_tokens: int, new_tokens: int
) -> int:
    """Return the largest power of two of rows that fits beside the weights, up to `MOST_ROWS`.

    Args:
        architecture: family and shape of the model.
        limit_bytes: memory of the device that a program can use.
        prompt_tokens: padded length of the longest prompts.
        new_tokens: tokens of an answer at most.

    Returns:
        1 if nothing fits by the estimate.
    """
    free = USED_SHARE * limit_bytes - weight_bytes(architecture)
    rows = MOST_ROWS
    while rows > 1 and batch_bytes(architecture, rows, prompt_tokens, new_tokens) > free:
        rows //= 2
    return rows


def longest_answer(options: EvalSpec, train: TrainSpec) -> int:
    """Return the tokens of an answer to any of the sets at most."""
    own = (each.max_new_tokens or 0 for each in options.all_sets)
    return max(_new_tokens(options, train), *own)


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
    token = _token_seconds(architecture, chip)
    if token is None:
        return None
    rows = MOST_ROWS if options.batch_size == "auto" else options.batch_size
    models = 2 + len(options.baselines)
    tokens = 0
    for each, questions in zip(options.all_sets, items, strict=True):
        passes = models + (1 if options.base_examples and each.instruction else 0)
        batches = math.ceil(questions * each.samples / rows)
        tokens += passes * batches * (each.max_new_tokens or _new_tokens(options, train))
    return tokens * token


def sample_seconds(
    architecture: Architecture,
    chip: Chip | None,
    *,
    completions: int,
    batch_size: int | Literal["auto"],
    new_tokens: int,
) -> float | None:
    """Estimate the least time in which one chip generates all completions of a sampling run.

    Args:
        architecture: family and shape of the model.
        chip: the device; None for a CPU.
        completions: completions of all prompts.
        batch_size: rows of a batch.
        new_tokens: tokens of a completion at most.

    Returns:
        None on a CPU, and if the bandwidth of the chip's memory is not known.
    """
    token = _token_seconds(architecture, chip)
    if token is None:
        return None
    rows = MOST_ROWS if batch_size == "auto" else batch_size
    return math.ceil(completions / rows) * new_tokens * token


def _token_seconds(architecture: Architecture, chip: Chip | None) -> float | None:
    """Return the least time of one token of a batch, which reads all weights."""
    if chip is None or chip.bytes_per_second is None:
        return None
    return max(_TOKEN_SECONDS, weight_bytes(architecture) / chip.bytes_per_second)


def _new_tokens(options: EvalSpec, train: TrainSpec) -> int:
    return options.max_new_tokens or train.max_length_tokens
