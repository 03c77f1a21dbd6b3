from __future__ import annotations

import pytest

from tuneloop.errors import SpecError
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.lora.targets import adapted_modules


def architecture(family: str, num_kv_heads: int) -> Architecture:
    return Architecture(
        **{"family": family, "num_layers": 2, "embed_dim": 32, "hidden_dim": 64},
        **{"num_heads": 4, "num_kv_heads": num_kv_heads, "head_dim": 8, "vocab_size": 64},
        rope=Rope(theta=1e4),
    )


def lora(*targets: str) -> LoraMethod:
    return LoraMethod.model_validate({"kind": "lora", "targets": targets or "all-linear"})


@pytest.mark.parametrize(
    ("family", "num_kv_heads", "count"),
    [("gemma3", 2, 6), ("gemma2", 4, 5), ("llama3", 2, 7), ("qwen3", 4, 7)],
)
def test_all_linear_layers_of_a_block(family: str, num_kv_heads: int, count: int) -> None:
    assert len(adapted_modules(architecture(family, num_kv_heads), lora())) == count


def test_listed_targets_map_to_the_modules_that_compute_them() -> None:
    targets = lora("v_proj", "k_proj", "down_proj")
    gemma, llama = architecture("gemma3", 2), architecture("llama3", 2)
    assert adapted_modules(gemma, targets) == ("kv_einsum", "down_proj")
    assert adapted_modules(llama, targets) == ("k_proj", "v_proj", "down_proj")


def test_a_part_of_a_fused_layer_is_refused() -> None:
    with pytest.raises(SpecError, match=r"has v_proj without k_proj, expected both or neither"):
        adapted_modules(architecture("gemma3", 2), lora("q_proj", "v_proj"))
    with pytest.raises(SpecError, match=r"has k_proj and v_proj without q_proj.*add q_proj"):
        adapted_modules(architecture("gemma3", 4), lora("k_proj", "v_proj"))
    assert adapted_modules(architecture("llama3", 4), lora("v_proj")) == ("v_proj",)
