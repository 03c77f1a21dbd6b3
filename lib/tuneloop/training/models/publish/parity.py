"""The parity gate: a written model folder must compute what the model in memory computed.

tuneloop itself always reads the folder again. Where mlx-lm is installed, that reads it too, in
float32: a reader that shares no code with the writer.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files, paths
from tuneloop.training.models.check import (
    PROMPT_TOKENS,
    TOLERANCE,
    CheckResult,
    Reference,
    check_model,
    compute_logits,
    continue_greedily,
)
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.hf_writer import host_array
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.publish import mlx_reader
from tuneloop.training.models.tensors import most_common_dtype

log = logging.getLogger(__name__)

NEW_TOKENS = 16
"""Greedy tokens that are compared."""
LAYERS_OF_TOLERANCE = 8
"""Number of blocks up to which `TOLERANCE` holds."""
DEEP_FACTOR = 40
"""How much coarser deeper models round. Published ones have single activations that are hundreds of
times the others: SmolLM2, with 30 blocks, differs from mlx-lm by 2e-4 of the logits' standard
deviation after tuning. A wrong RoPE or norm changes logits by more than a tenth of it."""
DTYPE_FACTORS = {"float32": 1, "float16": 128, "bfloat16": 1024}
"""How much coarser a dtype rounds than float32 does in matrix products on this scale."""


@dataclass(frozen=True)
class Parity:
    """What one reader found in a model folder."""

    reader: str
    """`tuneloop`; `mlx-lm` with its version; or `adapter`, for the files of an adapter."""
    dtype: str
    """Dtype that both sides computed in."""
    max_difference: float
    """Largest absolute difference of two logits; for an adapter, of two weights."""
    limit: float
    """Largest difference that passes."""
    greedy_equal: int | None
    """Greedy tokens that are equal, of `NEW_TOKENS`; None for an adapter."""


def make_reference(model: Any, architecture: Architecture, seed: int = 0) -> Reference:
    """Let a model in memory answer a fixed text; every process of a group makes the same call.

    Args:
        model: the model as it is written: after merging, for one with adapters.
        architecture: family and shape of the model.
        seed: seed of the 12 random ids of the prompt.
    """
    generated = np.zeros(PROMPT_TOKENS + NEW_TOKENS, np.int32)
    rng = np.random.default_rng(seed)
    generated[:PROMPT_TOKENS] = rng.integers(architecture.vocab_size, size=PROMPT_TOKENS)
    with jax.default_matmul_precision("highest"):
        generated[PROMPT_TOKENS:] = continue_greedily(model, generated)
        ids = generated[None]
        logits = np.asarray(host_array(compute_logits(model, ids)), np.float32)
    return Reference(ids, logits, generated)


def check_folder(
    folder: str,
    architecture: Architecture,
    reference: Reference,
    *,
    dtype: str | None = None,
    mesh: Mesh | None = None,
) -> list[Parity]:
    """Read a written model folder again and compare it with the model in memory.

    Args:
        folder: URL of the folder; mlx-lm reads local ones alone.
        architecture: family and shape of the model in memory.
        reference: of `make_reference`.
        dtype: dtype of the parameters in memory; None if they have those of the written weights.
        mesh: devices to load the model onto; None uses the default device.

    Returns:
        One entry for each reader that read the folder.

    Raises:
        DataError: a reader computes something else, or cannot read the folder.
    """
    stored = open_folder(folder)
    _check_config(folder, architecture)
    model = load_model(stored, architecture, dtype=dtype, mesh=mesh)
    computed = dtype or most_common_dtype(stored)
    found = [_compare("tuneloop", model, architecture, reference, folder, computed)]
    reason = mlx_reader.why_not(folder, architecture, reference.generated.size)
    if reason is not None:
        log.info("parity: read again by tuneloop alone, because %s", reason)
        return found
    theirs = mlx_reader.make_reference(folder, reference.generated[:PROMPT_TOKENS], NEW_TOKENS)
    if computed != "float32":
        del model  # before there is another one
        model = load_model(stored, architecture, dtype="float32", mesh=mesh)
    name = f"mlx-lm {mlx_reader.version()}"
    return [*found, _compare(name, model, architecture, theirs, folder, "float32")]


def limit_of(architecture: Architecture, logits_std: float, dtype: str) -> float:
    """Return the largest difference of two logits that arithmetic in another order explains.

    Args:
        architecture: deep models round more coarsely.
        logits_std: standard deviation of the logits; the tolerance is meant for 1.
        dtype: dtype of the computation.
    """
    depth = 1 if architecture.num_layers <= LAYERS_OF_TOLERANCE else DEEP_FACTOR
    return TOLERANCE * max(1.0, logits_std) * max(depth, DTYPE_FACTORS[dtype])


def _compare(
    reader: str,
    model: Any,
    architecture: Architecture,
    reference: Reference,
    folder: str,
    dtype: str,
) -> Parity:
    result: CheckResult = check_model(model, reference, folder)
    limit = limit_of(architecture, result.logits_std, dtype)
    found = Parity(reader, dtype, result.max_difference, limit, result.greedy_equal)
    if result.max_difference > limit or result.greedy_equal < result.greedy_tokens:
        raise DataError(
            f"{folder}: read by {reader}, the model's logits differ by"
            f" {result.max_difference:.2g} and {result.greedy_equal} of {result.greedy_tokens}"
            f" greedy tokens are equal, expected at most {limit:.2g} and all, so the written model"
            " is not the one in memory; report this with the family and the shape of the model"
        )
    return found


def _check_config(folder: str, architecture: Architecture) -> None:
    url = paths.join(folder, "config.json")
    found = parse_config(json.loads(files.read(url)), url)
    if found != architecture:
        names = [
            name
            for name in Architecture.model_fields
            if getattr(found, name) != getattr(architecture, name)
        ]
        raise DataError(
            f"{url}: describes another model than the one in memory ({', '.join(names)} differ),"
            " expected the same; report this with the family and the shape of the model"
        )
