"""Sizes of the parameters of a model and of its adapters."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod

_FUSED = {"gemma2": ("k_proj", "v_proj"), "gemma3": ("k_proj", "v_proj")}
"""Family -> projections that are computed in one layer and therefore have one adapter."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer of one transformer block."""

    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs


def block_matrices(architecture: Architecture) -> dict[str, Matrix]:
    """Return the linear layers of one block by their Hugging Face names."""
    a = architecture
    queries, keys = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    return {
        "q_proj": Matrix(a.embed_dim, queries),
        "k_proj": Matrix(a.embed_dim, keys),
        "v_proj": Matrix(a.embed_dim, keys),
        "o_proj": Matrix(queries, a.embed_dim),
        "gate_proj": Matrix(a.embed_dim, a.hidden_dim),
        "up_proj": Matrix(a.embed_dim, a.hidden_dim),
        "down_proj": Matrix(a.hidden_dim, a.embed_dim),
    }


def block_size(architecture: Architecture) -> int:
    """Return the number of weights of the linear layers of one block."""
    return sum(matrix.size for matrix in block_matrices(architecture).values())


def embedding_size(architecture: Architecture) -> int:
    """Return the number of weights of the embedding, which are also those of a separate LM head."""
    return architecture.vocab_size * architecture.embed_dim


def parameter_count(architecture: Architecture) -> int:
    """Return the number of weights of the model, without norms and biases."""
    tables = 1 if architecture.tied_embeddings else 2
    return tables * embedding_size(architecture) + architecture.num_layers * block_size(
        architecture
    )


def adapted_size(architecture: Architecture, method: LoraMethod) -> int:
    """Return the number of weights of the layers that have an adapter."""
    matrices = block_matrices(architecture)
    chosen = matrices if method.targets == "all-linear" else set(method.targets)
    return architecture.num_layers * sum(matrices[name].size for name in chosen)


def adapter_count(architecture: Architecture, method: LoraMethod) -> int:
    """Return the number of weights of all A and B matrices."""
    matrices = block_matrices(architecture)
    chosen = set(matrices if method.targets == "all-linear" else method.targets)
    fused = _FUSED.get(architecture.family, ())
    total = 0
    for name in chosen:
        # A layer that computes two projections has one A for both.
        inputs = 0 if name in fused[1:] else matrices[name].inputs
        total += method.rank * (inputs + matrices[name].outputs)
    return architecture.num_layers * total
