"""Read a model from a GGUF file: its configuration and its weights, under Hugging Face names.

Quantized weights are expanded; what was lost when they were quantized stays lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tuneloop.errors import DataError, InputMissing
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_layout import DTYPES
from tuneloop.training.models.hf_writer import OutgoingTensor, outgoing_array
from tuneloop.training.models.patches.rope import inverse_frequencies
from tuneloop.training.models.tensors import expected_tensors
from tuneloop.validation import shorten

MODEL_TYPES = {
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""`general.architecture` of GGUF -> `model_type` of Hugging Face."""

_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_LAYER = {
    **_LAYER,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Module of a layer -> its name in GGUF after `blk.N.`."""
_ROPE_FACTORS = "rope_freqs.weight"
_LARGEST_GEMMA_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, which alone scale queries by the embedding's share of a head. GGUF does
not store the scalar; llama.cpp recognizes these models in the same way."""


@dataclass(frozen=True)
class GgufModel:
    """A GGUF file that was opened; its tensors are not read yet."""

    place: str
    fields: Mapping[str, Any]
    """Values of the file's fields by name, such as `tokenizer.ggml.tokens`."""
    architecture: Architecture
    config: Mapping[str, Any]
    """Content of the `config.json` of the model."""
    tensors: tuple[OutgoingTensor, ...]
    """What `write_weights` writes."""

    @property
    def licence(self) -> str | None:
        """Licence that the file states; null if it states none."""
        found = self.fields.get("general.license")
        return str(found) if found else None


def open_gguf(path: Path, dtype: str = "float32") -> GgufModel:
    """Open a GGUF file.

    Args:
        path: local path of the file.
        dtype: dtype in which its weights are written.

    Raises:
        InputMissing: there is no such file.
        DataError: the file is torn, or of a kind that is not supported.
    """
    if not path.is_file():
        raise InputMissing(f"{path}: missing, expected a GGUF file; correct the path")
    try:
        reader: Any = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as e:
        raise DataError(
            f"{path}: not a complete GGUF file ({shorten(str(e))}); copy the file again"
        ) from e
    stored = {tensor.name: tensor for tensor in reader.tensors}
    place = str(path)
    keys = _config_of(fields, stored, place)
    architecture = parse_config(keys, place)
    config = dump_config(architecture, dtype, None, _token_ids(fields))
    tensors = _outgoing(architecture, stored, dtype, place)
    return GgufModel(place, fields, architecture, config, tensors)


def _token_ids(fields: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    found = {ours: fields.get(f"tokenizer.ggml.{name}_token_id") for ours, name in names.items()}
    return {f"{ours}_token_id": int(value) for ours, value in found.items() if value is not None}


def _config_of(fields: Mapping[str, Any], stored: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Build a `config.json` from the fields of a file."""
    kind = fields.get("general.architecture")
    if kind not in MODEL_TYPES:
        raise DataError(
            f"{place}: general.architecture is {shorten(kind)}, expected one of"
            f" {', '.join(MODEL_TYPES)}; choose a model of one of these families"
        )
    if fields.get(f"{kind}.expert_count"):
        raise DataError(
            f"{place}: {kind}.expert_count is {fields[f'{kind}.expert_count']}, but tuneloop does"
            " not support models with experts; choose another model"
        )

    def value(name: str, default: Any = None) -> Any:
        found = fields.get(f"{kind}.{name}", default)
        # Floats are float32; 1e-5 would come out as 9.999999747378752e-06.
        return float(str(np.float32(found))) if isinstance(found, float) else found

    if "token_embd.weight" not in stored:
        raise DataError(f"{place}: has no tensor token_embd.weight; copy the file again")
    config: dict[str, Any] = {
        "model_type": MODEL_TYPES[kind],
        "num_hidden_layers": value("block_count"),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv", value("attention.head_count")),
        "head_dim": value("attention.key_length"),
        "vocab_size": int(stored["token_embd.weight"].shape[1]),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": value("context_length", 8192),
        "rope_theta": value("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in stored,
    }
    if kind == "gemma3":
        config["rope_theta"] = value("rope.freq_base", 1_000_000.0)
    if value("rope.scaling.type") not in (None, "none"):
        factor = value("rope.scaling.factor", 1.0)
        config["rope_scaling"] = {"rope_type": value("rope.scaling.type"), "factor": factor}
    if kind.startswith("gemma"):
        config |= _gemma_keys(kind, config, value, place)
    if missing := sorted(key for key, found in config.items() if found is None):
        if missing != ["head_dim"]:
            raise DataError(f"{place}: states no {missing[0]}; copy the file again")
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if _ROPE_FACTORS in stored:
        config["rope_scaling"] = _llama3_scaling(stored[_ROPE_FACTORS], config, place)
    return config


def _gemma_keys(
    kind: str, config: Mapping[str, Any], value: Callable[..., Any], place: str
) -> dict[str, Any]:
    head_dim = config["head_dim"]
    if head_dim is None:
        raise DataError(f"{place}: states no {kind}.attention.key_length; copy the file again")
    is_largest = config["num_hidden_layers"] == _LARGEST_GEMMA_LAYERS[kind]
    share = config["hidden_size"] // config["num_attention_heads"]
    keys = {
        "query_pre_attn_scalar": share if is_largest else head_dim,
        "sliding_window": value("attention.sliding_window", 4096),
    }
    if kind == "gemma2":
        keys["attn_logit_softcapping"] = value("attn_logit_softcapping", 50.0)
        keys["final_logit_softcapping"] = value("final_logit_softcapping", 30.0)
    return keys


def _llama3_scaling(tensor: Any, config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Recognize the scaling of Llama 3.1 in the factors of each frequency, which GGUF stores."""
    factors = np.asarray(tensor.data, np.float32).ravel()
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = parse_config({**config, "rope_scaling": None}, place)
    scaled = parse_config({**config, "rope_scaling": scaling}, place)
    expected = inverse_frequencies(plain.rope, plain.head_dim) / inverse_frequencies(
        scaled.rope, plain.head_dim
    )
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise DataError(
            f"{place}: {_ROPE_FACTORS} holds {shorten(factors.tolist())}, expected the factors of"
            " Llama 3.1; add the model from its Hugging Face folder"
        )
    return scaling


def _outgoing(
    architecture: Architecture, stored: Mapping[str, Any], dtype: str, place: str
) -> tuple[OutgoingTensor, ...]:
    wanted = np.dtype(next(each for each in DTYPES.values() if each.name == dtype))
    unused = set(stored) - {_ROPE_FACTORS}
    found: list[OutgoingTensor] = []
    for name, shape in expected_tensors(architecture).items():
        theirs = gguf_name(architecture.family, name)
        unused.discard(theirs)
        if theirs not in stored:
            raise DataError(f"{place}: tensor {theirs} {shape} is missing; copy the file again")
        tensor = stored[theirs]
        given = tuple(int(size) for size in reversed(tensor.shape))
        if given != shape:
            raise DataError(
                f"{place}: tensor {theirs} is {given}, expected {shape}; copy the file again"
            )
        read = _reader(tensor, name, architecture, place)
        found.append(outgoing_array(name, wanted, shape, read))
    if unused:
        raise DataError(
            f"{place}: tensor {min(unused)} is unknown, expected those of a {architecture.family}"
            " model; choose another model"
        )
    return tuple(found)


def gguf_name(family: str, name: str) -> str:
    """Return the name in a GGUF file of a tensor with this Hugging Face name."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, *rest = name.split(".")
    module, kind = ".".join(rest[:-1]), rest[-1]
    table = _GEMMA_LAYER if family.startswith("gemma") else _LAYER
    return f"blk.{layer}.{table[module]}.{kind}"


def _reader(
    tensor: Any, name: str, architecture: Architecture, place: str
) -> Callable[[], np.ndarray]:
    heads = {"q_proj": architecture.num_heads, "k_proj": architecture.num_kv_heads}
    permuted = [count for part, count in heads.items() if f".{part}." in name]

    def read() -> np.ndarray:
        try:
            values: np.ndarray = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as e:
            raise DataError(
                f"{place}: tensor {tensor.name} is quantized as {tensor.tensor_type.name}, which"
                " the package gguf cannot expand; choose another file"
            ) from e
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        if permuted and architecture.family == "llama3":
            return _unpermute(values, permuted[0])
        if architecture.family.startswith("gemma") and name.endswith("norm.weight"):
            return values - np.float32(1)  # llama.cpp stores the whole factor, Gemma what exceeds 1
        return values

    return read


def _unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of rows, in which the two numbers that RoPE turns are neighbours."""
    rows, width = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, width)
    return paired.swapaxes(1, 2).reshape(rows, width)
