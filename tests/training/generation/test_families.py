"""Every family generates in padded batches what it generates alone, and what transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.training.generation.simple import greedy_without_cache
from tests.training.models.checkpoints import tiny_config
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.check import PROMPT_TOKENS, load_reference
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.text.tokenizers import parse_json_object

HF_TINY = Path(__file__).parents[2] / "data" / "hf_tiny"
LENGTHS = (30, 5, 25, 1, 17)
"""Lengths of prompts beside the reference's. The sliding window of Gemma is 16 tokens."""


def generated(model: Any, architecture: Architecture, prompts: list[list[int]]) -> list[list[int]]:
    generator = Generator(model, architecture, stop_ids=(), batch_size=4, max_new_tokens=16)
    found = generator.generate(prompts, generator.plan(prompts))
    return [list(found[number].ids) for number in range(len(prompts))]


def prompts_like(ids: np.ndarray) -> list[list[int]]:
    return [ids[1, at : at + length].tolist() for at, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "llama31", "qwen3_untied_5e6"])
def test_greedy_tokens_equal_those_of_transformers_in_a_batch(name: str) -> None:
    folder = HF_TINY / name
    place = str(folder / "config.json")
    architecture = parse_config(parse_json_object(Path(place).read_bytes(), place), place)
    model = load_model(open_folder(str(folder)), architecture, dtype="float32")
    reference = load_reference(f"{folder}.npz")
    prompt, expected = np.split(reference.generated, [PROMPT_TOKENS])
    prompts = [prompt.tolist(), *prompts_like(reference.ids)]
    with jax.default_matmul_precision("highest"):
        found = generated(model, architecture, prompts)
        assert found[0] == expected.tolist()
        assert found == greedy_without_cache(model, prompts, 16)


def test_qwen2_generates_in_a_batch_what_it_generates_alone() -> None:
    architecture = parse_config(tiny_config("qwen2"), "config.json")
    model = build_random_model(architecture, 0)
    ids = np.random.default_rng(0).integers(0, architecture.vocab_size, (2, 48))
    prompts = prompts_like(ids)
    assert generated(model, architecture, prompts) == greedy_without_cache(model, prompts, 16)
