from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.builders import TINY_MODEL
from tests.training.models.checkpoints import MODEL_TYPES, tiny_config
from tests.training.tiny import dump_params
from tuneloop.errors import DataError, SpecError
from tuneloop.specs.training.model import RandomModelSpec, TokenizerSpec
from tuneloop.training.chat_templates import CHAT_TEMPLATES
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.families import gemma3
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.naming import LAYER_RULES
from tuneloop.training.models.parameters import live_params, param_items
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.registry import FAMILIES, family_named, lora_modules
from tuneloop.training.models.stored import Lineage, load_stored_model, write_model_folder
from tuneloop.training.text.tokenizers import load_tokenizer_files
from tuneloop.training.text.trainer import train_tokenizer

TOY: Any = SimpleNamespace(abstract_model=gemma3.abstract_model)


def test_a_family_registered_from_outside_is_built_saved_loaded_and_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = dataclasses.replace(FAMILIES["gemma3"], module=lambda: TOY)
    monkeypatch.setitem(FAMILIES, "toy", row)
    monkeypatch.setitem(LAYER_RULES, "toy", LAYER_RULES["gemma3"])
    tokenizer = train_tokenizer(["user model", "Say a", "Answer: a"], TokenizerSpec(vocab_size=300))
    files = {"tokenizer.model": tokenizer}
    vocab_size = load_tokenizer_files(files, "toy").vocab_size
    architecture = random_architecture(RandomModelSpec(**TINY_MODEL), vocab_size)
    toy = architecture.model_copy(update={"family": "toy", "num_layers": 1})
    model = build_random_model(toy, 5)
    write_model_folder(
        live_params(model),
        toy,
        Lineage("toy", "a test"),
        files,
        lambda name: (tmp_path / name).open("wb"),
    )
    stored = load_stored_model(str(tmp_path))
    assert stored.architecture == toy
    assert dump_params(stored.model) == dump_params(model)
    chat_format = stored.chat_format
    prompts = [chat_format.encode_prompt("Say a", None)]
    generator = Generator(
        stored.model, toy, stop_ids=chat_format.stop_ids, batch_size=8, max_new_tokens=8
    )
    said = generator.generate(prompts, generator.plan(prompts))
    assert len(said[0].ids) <= 8


def test_a_model_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(
        SpecError, match="model family 'opt' is unknown, expected one of: gemma2, gemma3"
    ):
        family_named("opt")


def test_families_without_a_template_of_their_own_say_so() -> None:
    templates = {row.default_template for row in FAMILIES.values()} - {None}
    assert templates <= CHAT_TEMPLATES.keys()
    with pytest.raises(DataError, match="type llama: has no chat template"):
        _ = FAMILIES["llama3"].chat_template


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_lora_modules_are_all_matrices_but_the_embeddings(family: str, kv_heads: int) -> None:
    config = tiny_config(MODEL_TYPES.get(family, family), num_key_value_heads=kv_heads)
    architecture = parse_config(config, "config.json")
    model = family_named(family).module().abstract_model(architecture, "float32")
    paths = (path for path, variable in param_items(model) if len(variable.shape) > 1)
    matrices = {path[-2] for path in paths}
    assert matrices - {"embedder", "lm_head"} == set(lora_modules(architecture))
