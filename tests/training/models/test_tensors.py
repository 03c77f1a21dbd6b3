from __future__ import annotations

from typing import Any

import pytest

from tests.training.models.checkpoints import CONFIGS, tensor_shapes, tiny_config
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.naming import rule_of
from tuneloop.training.models.parameters import param_items
from tuneloop.training.models.registry import family_named
from tuneloop.training.models.tensors import IGNORED, count_parameters, expected_tensors

GEMMA = {"model_type": "gemma3_text", "vocab_size": 262144, "head_dim": 256}
GEMMA2 = {"model_type": "gemma2"}
LLAMA = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8}
QWEN2 = {"model_type": "qwen2", "vocab_size": 151936}
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8}


def shape(layers: int, width: int, hidden: int, heads: int, kv_heads: int | None = None) -> Any:
    keys = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": hidden}
    keys |= {"num_attention_heads": heads}
    return keys if kv_heads is None else {**keys, "num_key_value_heads": kv_heads}


TIED = {"tie_word_embeddings": True}
PUBLISHED = {
    "gemma3-270m": ({**GEMMA, **shape(18, 640, 2048, 4, 1)}, 268_098_176),
    "gemma3-1b": ({**GEMMA, **shape(26, 1152, 6912, 4, 1)}, 999_885_952),
    "gemma3-4b": ({**GEMMA, **shape(34, 2560, 10240, 8, 4)}, 3_880_099_328),
    "gemma3-12b": ({**GEMMA, **shape(48, 3840, 15360, 16, 8)}, 11_765_788_416),
    "gemma3-27b": (
        {**GEMMA, **shape(62, 5376, 21504, 32, 16), "head_dim": 128},
        27_009_002_240,
    ),
    "gemma2-2b": ({**GEMMA2, **shape(26, 2304, 9216, 8, 4)}, 2_614_341_888),
    # Tunix's preset has a hidden width of 28,672, twice the right one.
    "gemma2-9b": ({**GEMMA2, **shape(42, 3584, 14336, 16, 8)}, 9_241_705_984),
    "qwen3-0.6b": ({**QWEN3, **shape(28, 1024, 3072, 16), **TIED}, 596_049_920),
    "qwen3-1.7b": ({**QWEN3, **shape(28, 2048, 6144, 16), **TIED}, 1_720_574_976),
    "qwen3-4b": ({**QWEN3, **shape(36, 2560, 9728, 32), **TIED}, 4_022_468_096),
    "qwen3-8b": ({**QWEN3, **shape(36, 4096, 12288, 32)}, 8_190_735_360),
    "llama3.2-1b": ({**LLAMA, **shape(16, 2048, 8192, 32), **TIED}, 1_235_814_400),
    "llama3.2-3b": ({**LLAMA, **shape(28, 3072, 8192, 24), **TIED}, 3_212_749_824),
    "llama3.1-8b": ({**LLAMA, **shape(32, 4096, 14336, 32)}, 8_030_261_248),
    "qwen2.5-0.5b": ({**QWEN2, **shape(24, 896, 4864, 14, 2), **TIED}, 494_032_768),
    "qwen2.5-1.5b": ({**QWEN2, **shape(28, 1536, 8960, 12, 2), **TIED}, 1_543_714_304),
    "qwen2.5-7b": (
        {**QWEN2, **shape(28, 3584, 18944, 28, 4), "vocab_size": 152064},
        7_615_616_512,
    ),
    "smollm2-135m": (
        {"model_type": "llama", "vocab_size": 49152, **shape(30, 576, 1536, 9, 3), **TIED},
        134_515_008,
    ),
}
"""Name -> (shape as in its config.json, published number of parameters of the text model)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    config, published = PUBLISHED[name]
    assert count_parameters(parse_config(config, name)) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_tunix_builds_models_of_the_same_size(name: str) -> None:
    """Counted with one and two layers; shapes of all 62 layers of the largest take 46 s."""
    config, published = PUBLISHED[name]
    counts = []
    for layers in (1, 2):
        architecture = parse_config({**config, "num_hidden_layers": layers}, name)
        model = family_named(architecture.family).module().abstract_model(architecture, "bfloat16")
        counts.append(sum(variable.size for _, variable in param_items(model)))
    one_layer = counts[1] - counts[0]
    assert counts[0] + (config["num_hidden_layers"] - 1) * one_layer == published


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_tensors_are_those_of_transformers_and_of_tunix(
    model_type: str, kv_heads: int, tied: bool
) -> None:
    if model_type.startswith("gemma"):
        tied = True
    config = tiny_config(model_type, num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    architecture = parse_config(config, "")
    expected = expected_tensors(architecture)
    assert expected == tensor_shapes(config)
    found: dict[str, tuple[int, ...]] = {}
    model = family_named(architecture.family).module().abstract_model(architecture, "float32")
    for path, variable in param_items(model):
        rule = rule_of(architecture.family, ".".join(map(str, path)))
        found |= dict.fromkeys(rule.tensors, rule.tensor_shape(tuple(variable.shape)))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "is_ignored"),
    [
        ("vision_tower.vision_model.embeddings.patch_embedding.weight", True),
        ("model.vision_tower.x", True),
        ("multi_modal_projector.mm_input_projection_weight", True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", True),
        ("model.layers.99.mlp.up_proj.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_only_what_a_text_model_has_no_use_for_is_ignored(name: str, is_ignored: bool) -> None:
    assert bool(IGNORED.fullmatch(name)) == is_ignored
