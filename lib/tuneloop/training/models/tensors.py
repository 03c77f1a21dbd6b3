"""Which tensors a checkpoint must have, by its architecture. Nothing here imports JAX."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.naming import EMBEDDING, LM_HEAD, layer_tensors, name_style

_NAMES_SHOWN = 4

IGNORED = re.compile(
    r"(model\.)?(vision_tower|vision_model|multi_modal_projector|embed_vision)\..*"
    r"|.*\.rotary_emb\.inv_freq"
)
"""Tensors that a text model leaves unread: vision models, and frequencies that old files store."""

_Shape = Callable[[Architecture], tuple[int, ...]]
_SHAPES: dict[str, _Shape] = {
    "self_attn.q_proj.weight": lambda a: (a.num_heads * a.head_dim, a.embed_dim),
    "self_attn.k_proj.weight": lambda a: (a.num_kv_heads * a.head_dim, a.embed_dim),
    "self_attn.v_proj.weight": lambda a: (a.num_kv_heads * a.head_dim, a.embed_dim),
    "self_attn.o_proj.weight": lambda a: (a.embed_dim, a.num_heads * a.head_dim),
    "self_attn.q_proj.bias": lambda a: (a.num_heads * a.head_dim,),
    "self_attn.k_proj.bias": lambda a: (a.num_kv_heads * a.head_dim,),
    "self_attn.v_proj.bias": lambda a: (a.num_kv_heads * a.head_dim,),
    "self_attn.q_norm.weight": lambda a: (a.head_dim,),
    "self_attn.k_norm.weight": lambda a: (a.head_dim,),
    "mlp.gate_proj.weight": lambda a: (a.hidden_dim, a.embed_dim),
    "mlp.up_proj.weight": lambda a: (a.hidden_dim, a.embed_dim),
    "mlp.down_proj.weight": lambda a: (a.embed_dim, a.hidden_dim),
}
"""Tensor within a layer -> its shape; the others are norms over the embedding's width."""


def expected_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a model, under standard names."""
    width = (architecture.embed_dim,)
    embedding = (architecture.vocab_size, architecture.embed_dim)
    shapes = {EMBEDDING: embedding, "model.norm.weight": width}
    if not architecture.tied_embeddings:
        shapes[LM_HEAD] = embedding
    for layer in range(architecture.num_layers):
        for leaf in layer_tensors(architecture.family):
            shape = _SHAPES[leaf](architecture) if leaf in _SHAPES else width
            shapes[f"model.layers.{layer}.{leaf}"] = shape
    return shapes


def count_parameters(architecture: Architecture) -> int:
    """Return the number of parameters of a model; tied embeddings count once."""
    return sum(map(math.prod, expected_tensors(architecture).values()))


def most_common_dtype(folder: CheckpointFiles) -> str:
    """Return the dtype of most weights, such as `bfloat16`, counted by elements.

    Raises:
        DataError: a weight has a dtype that is not supported.
    """
    counts: Counter[str] = Counter()
    for tensor in folder.tensors.values():
        if not IGNORED.fullmatch(tensor.name):
            counts[tensor.dtype.name] += math.prod(tensor.shape)
    return counts.most_common(1)[0][0] if counts else "float32"


def check_tensors(folder: CheckpointFiles, architecture: Architecture) -> None:
    """Check that a checkpoint has exactly the tensors of its architecture; nothing is read.

    Raises:
        DataError: tensors are missing, unknown or misshapen, or have a dtype that is not
            supported; the message names tensors and files.
    """
    style = name_style(folder.tensors)
    problems: list[str] = []
    unused = dict(folder.tensors)
    for standard, expected in expected_tensors(architecture).items():
        name = style.stored_name(standard)
        tensor = unused.pop(name, None)
        if tensor is None:
            problems.append(f"{name} {expected} is missing in {folder.home_of(name)}")
        elif tensor.shape != expected:
            why = f" (vocab_size {expected[0]})" if standard in (EMBEDDING, LM_HEAD) else ""
            problems.append(
                f"{name} is {tensor.shape} in {tensor.file.url}, expected {expected}{why}"
            )
        else:
            _ = tensor.dtype  # raises for a dtype that is not supported
    if architecture.tied_embeddings:
        unused.pop(style.stored_name(LM_HEAD), None)  # a copy of the embedding
    problems += [
        f"{name} {tensor.shape} in {tensor.file.url} is unknown"
        for name, tensor in unused.items()
        if not IGNORED.fullmatch(name)
    ]
    if problems:
        raise DataError(_sentence(folder.url, problems, architecture))


def _sentence(url: str, problems: Sequence[str], architecture: Architecture) -> str:
    shown = "; ".join(problems[:_NAMES_SHOWN])
    more = len(problems) - _NAMES_SHOWN
    many = "tensor does" if len(problems) == 1 else "tensors do"
    return (
        f"{url}: {len(problems)} {many} not fit the {architecture.family} model that its"
        f" config.json describes: {shown}{f'; and {more} more' if more > 0 else ''}; copy the model"
        " again, or correct config.json"
    )
