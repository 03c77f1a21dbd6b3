"""The scale of queries: Tunix's fault is still there; families/test_parity.py tests the patch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from flax import nnx
from tunix.models.gemma import model as gemma2
from tunix.models.gemma3 import model as gemma3

from tests.training.models.checkpoints import tiny_config
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.registry import family_named


def test_tunix_still_has_no_scalar_of_queries() -> None:
    """If this fails, Tunix has a setting for it: use it in place of the patch."""
    fields = {each.name for each in dataclasses.fields(gemma2.ModelConfig)}
    assert not {name for name in fields if "query" in name or "scalar" in name}
    assert len(gemma3.QueryPreAttentionNormalisation) == 2
    assert not {
        each.name
        for each in dataclasses.fields(gemma3.ModelConfig)
        if "query" in each.name and each.name != "query_pre_attn_norm"
    }


@pytest.mark.parametrize(
    ("model_type", "member"), [("gemma2", "head_dim"), ("gemma3_text", "query_pre_attn_scalar")]
)
def test_the_patch_is_only_there_where_it_is_needed(model_type: str, member: str) -> None:
    def attention(**changes: Any) -> nnx.Module:
        architecture = parse_config(tiny_config(model_type, **changes), "")
        model = family_named(architecture.family).module().abstract_model(architecture, "float32")
        found: nnx.Module = model.layers[0].attn
        return found

    plain, scaled = attention(), attention(query_pre_attn_scalar=64)
    # The class of `use_attend` is between the two.
    assert type(plain).__mro__[1] in (gemma2.Attention, gemma3.Attention)
    assert isinstance(scaled, gemma2.Attention | gemma3.Attention)
    expected = {"head_dim": 64, "query_pre_attn_scalar": 1 / 8}
    assert getattr(scaled, member) == expected[member]
