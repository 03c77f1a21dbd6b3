"""Epsilon of the norms: Tunix's fault is still there; families/test_parity.py tests the patch."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.models.gemma import model as gemma2
from tunix.models.gemma3 import model as gemma3

from tests.training.models.checkpoints import tiny_config
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.registry import family_named


def test_tunix_still_has_one_epsilon() -> None:
    """If this fails, Tunix has a setting for it: use it in place of the patch."""
    for module in (gemma2, gemma3):
        parameters = inspect.signature(module.RMSNorm.__init__).parameters
        assert not {name for name in parameters if "eps" in name}
        norm = module.RMSNorm(4, rngs=nnx.Rngs(0))
        assert np.asarray(norm(jnp.full((1, 4), 1e-6))) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_every_norm_has_the_epsilon_of_the_file(model_type: str) -> None:
    architecture = parse_config(tiny_config(model_type, rms_norm_eps=1e-2), "")
    model = family_named(architecture.family).module().abstract_model(architecture, "float32")
    norms = [each for _, each in nnx.iter_modules(model) if type(each).__name__ == "RMSNorm"]
    per_layer = 6 if model_type == "gemma3_text" else 4
    assert len(norms) == per_layer * architecture.num_layers + 1
    for norm in norms:
        norm.scale.set_value(jnp.zeros(norm.scale.shape))
        found = norm(jnp.full((1, *norm.scale.shape), 1e-3))
        assert np.asarray(found) == pytest.approx(1e-2, rel=1e-3)
