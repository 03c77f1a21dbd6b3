"""Numbers of parameters in closed form equal those of the models."""

from __future__ import annotations

import math
from typing import Any

import jax
import pytest
from flax import nnx

from tests.training.compile.cells import architecture
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.compile.abstract_step import Placement, build_abstract_step
from tuneloop.training.models.tensors import expected_tensors
from tuneloop.training.sizing.parameters import adapter_count, parameter_count

FAMILIES = ["gemma2", "gemma3", "llama3", "qwen2", "qwen3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_matrices_are_counted(family: str) -> None:
    given = architecture(family)
    matrices = [shape for shape in expected_tensors(given).values() if len(shape) > 1]
    assert parameter_count(given) == sum(map(math.prod, matrices))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], ["k_proj", "v_proj"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_adapters_are_counted(family: str, targets: Any) -> None:
    given = architecture(family)
    method = LoraMethod(kind="lora", rank=4, targets=targets)
    train = TrainSpec(steps=1, batch_size=2, max_length_tokens=8, method=method)
    step = build_abstract_step(train, given, Placement(jax.devices()[0], None), steps=1)
    adapters = jax.tree.leaves(nnx.state(step.model, nnx.LoRAParam))
    assert adapter_count(given, method) == sum(math.prod(each.shape) for each in adapters)
