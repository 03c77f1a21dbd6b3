from __future__ import annotations

import numpy as np
import pytest

from tests.training.models.checkpoints import (
    CONFIGS,
    MODEL_TYPES,
    random_tensors,
    tensor_shapes,
    tiny_config,
)
from tuneloop.errors import DataError
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.naming import (
    NameStyle,
    name_style,
    params_to_tensors,
    projections_of,
    rule_of,
)
from tuneloop.training.models.parameters import param_items
from tuneloop.training.models.registry import FAMILIES, family_named, lora_modules


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_belongs_to_one_parameter_and_back(
    model_type: str, kv_heads: int, tied: bool
) -> None:
    if model_type.startswith("gemma") and not tied:
        tied = True  # no other Gemma is supported
    config = tiny_config(
        model_type, num_key_value_heads=kv_heads, tie_word_embeddings=tied, num_hidden_layers=2
    )
    tensors = random_tensors(config)
    architecture = parse_config(config, "config.json")
    family = architecture.family
    model = family_named(family).module().abstract_model(architecture, "float32")
    params = {}
    for path, variable in param_items(model):
        name, shape = ".".join(map(str, path)), tuple(variable.shape)
        rule = rule_of(family, name)
        assert all(rule.tensor_shape(shape) == tensors[each].shape for each in rule.tensors)
        views = [rule.part_view(tensors[each], shape) for each in rule.tensors]
        assert all(
            np.shares_memory(v, tensors[n]) for v, n in zip(views, rule.tensors, strict=True)
        )
        params[name] = np.stack(views) if rule.is_stacked else views[0]
        assert params[name].shape == shape
    back = params_to_tensors(family, params)
    assert back.keys() == tensor_shapes(config).keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_modules_stand_for_the_seven_projections(family: str) -> None:
    for kv_heads in (2, 4):
        config = tiny_config(MODEL_TYPES.get(family, family), num_key_value_heads=kv_heads)
        architecture = parse_config(config, "config.json")
        found: list[str] = []
        for module in lora_modules(architecture):
            room = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "attn"
            found += projections_of(family, f"layers.3.{room}.{module}")
        expected = [f"self_attn.{x}_proj" for x in "qkvo"]
        expected += [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
        assert sorted(found) == sorted(f"model.layers.3.{each}" for each in expected)


def test_a_parameter_without_a_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"layers\.0\.attn\.sink: has no Hugging Face name"):
        rule_of("llama3", "layers.0.attn.sink")


@pytest.mark.parametrize(
    ("style", "embedding", "head"),
    [
        (NameStyle(), "model.embed_tokens.weight", "lm_head.weight"),
        (
            NameStyle("language_model.model.", "language_model."),
            "language_model.model.embed_tokens.weight",
            "language_model.lm_head.weight",
        ),
        (
            NameStyle("model.language_model."),
            "model.language_model.embed_tokens.weight",
            "lm_head.weight",
        ),
        (NameStyle(""), "embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_prefixes_are_recognized(style: NameStyle, embedding: str, head: str) -> None:
    assert name_style(["vision_tower.x", embedding]) == style
    assert style.stored_name("lm_head.weight") == head
