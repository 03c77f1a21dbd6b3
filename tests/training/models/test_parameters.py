from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tests.training.models.checkpoints import tiny_config
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.parameters import live_params, param_items, set_abstract_dtype
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.registry import family_named

ARCHITECTURE = parse_config(tiny_config("llama", num_hidden_layers=1), "config.json")


def test_live_parameters_are_the_models_own_arrays_by_sorted_name() -> None:
    model = build_random_model(ARCHITECTURE, 0)
    params = live_params(model)
    assert list(params) == sorted(params)
    assert params["final_norm.w"] is model.final_norm.w.get_value()
    assert params["layers.0.attn.q_proj.w"].shape == (64, 4, 16)
    assert np.asarray(params["lm_head.w"]).std() > 0.05


def test_the_dtype_of_a_model_changes_before_anything_is_allocated() -> None:
    model = family_named("llama3").module().abstract_model(ARCHITECTURE, "float32")
    before = {path: variable.shape for path, variable in param_items(model)}
    set_abstract_dtype(model, "bfloat16")
    assert {variable.dtype for _, variable in param_items(model)} == {jnp.dtype("bfloat16")}
    assert {path: variable.shape for path, variable in param_items(model)} == before
