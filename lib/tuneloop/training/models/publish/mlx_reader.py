"""Read a model folder with mlx-lm, where it is installed; it shares no code with tuneloop.

mlx-lm is a package of development (the extra `dev`). Nothing else imports it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files
from tuneloop.training.models.check import Reference

FAMILIES = frozenset({"gemma2", "gemma3", "llama3", "qwen2", "qwen3"})
"""Families that mlx-lm has under the same model type."""


def why_not(folder: str, architecture: Architecture, tokens: int) -> str | None:
    """Return why mlx-lm does not check a folder; None if it does.

    Args:
        folder: URL of the folder.
        architecture: family and shape of the model.
        tokens: length of the text that is compared.
    """
    if importlib.util.find_spec("mlx_lm") is None:
        return "mlx-lm is not installed"
    if files.local_path(folder) is None:
        return "mlx-lm reads local folders only"
    if architecture.family not in FAMILIES:
        return f"mlx-lm is not known to read {architecture.family}"
    if architecture.family == "gemma2" and tokens > (architecture.sliding_window_tokens or tokens):
        return "mlx-lm's gemma2 has no sliding window"
    if architecture.family == "gemma3" and not _is_periodic(architecture.layer_types):
        return "mlx-lm reads gemma3 only if every n-th block is a global one"
    return None


def _is_periodic(layer_types: tuple[str, ...]) -> bool:
    """Return whether every n-th block alone uses full attention, for some n."""
    if "full" not in layer_types:
        return False
    period = layer_types.index("full") + 1
    return all(
        (each == "full") == (number % period == 0)
        for number, each in enumerate(layer_types, start=1)
    )


def version() -> str:
    """Return the version of mlx-lm."""
    return importlib.metadata.version("mlx-lm")


def make_reference(folder: str, prompt: np.ndarray, new_tokens: int) -> Reference:
    """Compute logits and a greedy continuation with mlx-lm, in float32.

    Args:
        folder: local folder.
        prompt: int32 (length,).
        new_tokens: number of tokens to generate.

    Raises:
        DataError: mlx-lm cannot read the folder.
    """
    import mlx.core as mx

    model = _load(folder)

    def logits_of(ids: np.ndarray) -> np.ndarray:
        tokens = mx.array(ids[None])
        return np.array(model(tokens, **_exact_embeddings(model, tokens)).astype(mx.float32))

    generated = prompt
    for _ in range(new_tokens):
        newest = logits_of(generated)[0, -1].argmax()
        generated = np.append(generated, newest).astype(np.int32)
    return Reference(generated[None], logits_of(generated), generated)


def _exact_embeddings(model: Any, tokens: Any) -> dict[str, Any]:
    """Return embeddings for a Gemma 3 that make up for a rounded factor in mlx-lm.

    It multiplies embeddings by the square root of their width as a bfloat16, also in float32: by
    34 instead of 33.94 for Gemma 3 1B, which moves logits by a few hundredths.
    """
    import mlx.core as mx

    if not model.model_type.startswith("gemma3"):
        return {}
    embeddings = getattr(model, "language_model", model).model.embed_tokens(tokens)
    factor = embeddings.shape[-1] ** 0.5
    rounded = mx.array(factor, mx.bfloat16).astype(mx.float32).item()
    return {"input_embeddings": embeddings * (factor / rounded)}


def _load(folder: str) -> Any:
    """Load a folder, with all parameters in float32."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    local = files.local_path(folder)
    try:
        model, _ = load_model(Path(local or folder), lazy=True)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{folder}: mlx-lm cannot read the model ({e}), expected a folder that other tools"
            " read; report this with the family and the shape of the model"
        ) from e
    model.update(tree_map(lambda parameter: parameter.astype(mx.float32), model.parameters()))
    return model
