"""What transformers assumes for keys that a `config.json` leaves out, and what is refused.

A test compares the defaults with those of the installed transformers.
"""

from __future__ import annotations

from typing import Any

FAMILY_OF_MODEL_TYPE = {
    "gemma3_text": "gemma3",
    "gemma2": "gemma2",
    "llama": "llama3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""`model_type` of a text model -> key of `FAMILIES`."""

_GEMMA: dict[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_QWEN: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {**_GEMMA, "vocab_size": 262208, "max_position_embeddings": 131072},
    "gemma2": {
        **_GEMMA,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "qwen2": {**_QWEN, "head_dim": None},
    "qwen3": {**_QWEN, "head_dim": 128},
}
"""`model_type` -> defaults of transformers; null means that the value is derived from others."""

_NO: tuple[Any, ...] = (None, False)
_ANY_FAMILY: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
}
_GEMMA_REFUSED: dict[str, tuple[Any, ...]] = {
    **_ANY_FAMILY,
    "attention_bias": _NO,
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    "tie_word_embeddings": (True,),
    "use_bidirectional_attention": _NO,
}
_SILU: dict[str, tuple[Any, ...]] = {**_ANY_FAMILY, "hidden_act": ("silu",)}

REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gemma3": {
        **_GEMMA_REFUSED,
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    },
    "gemma2": _GEMMA_REFUSED,
    "llama3": {**_SILU, "attention_bias": _NO, "mlp_bias": _NO},
    "qwen2": _SILU,
    "qwen3": {**_SILU, "attention_bias": _NO},
}
"""Family -> settings that change the model's output -> the values that are supported."""
