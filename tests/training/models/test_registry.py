from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.builders import TINY_MODEL
from tuneloop.errors import SpecError
from tuneloop.specs.model import RandomModelSpec, TokenizerSpec
from tuneloop.training.chat_templates import CHAT_TEMPLATES, chat_template_named
from tuneloop.training.generation.sampler import Generator
from tuneloop.training.models import gemma3, model_files
from tuneloop.training.models.parameters import flat_params
from tuneloop.training.models.registry import FAMILIES, ModelFamily, family_named
from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer
from tuneloop.training.text.trainer import train_tokenizer

TOY: Any = SimpleNamespace(
    build_model=gemma3.build_model,
    build_model_from_params=gemma3.build_model_from_params,
)


def test_a_family_registered_from_outside_is_built_saved_loaded_and_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = ModelFamily(lambda: TOY, chat_template="gemma3", lora_targets=("q_einsum",))
    monkeypatch.setitem(FAMILIES, "toy", row)
    tokenizer = train_tokenizer(["user model", "Say a", "Answer: a"], TokenizerSpec(vocab_size=300))
    vocab_size = load_tokenizer(tokenizer).get_piece_size()
    architecture = gemma3.architecture_of(RandomModelSpec(**TINY_MODEL), vocab_size)
    toy = architecture.model_copy(update={"family": "toy", "num_layers": 2})
    family = family_named("toy")
    model = family.module().build_model(toy, 5)
    files = {
        model_files.BASE_WEIGHTS: model_files.dump_weights(model),
        model_files.DESCRIPTION: model_files.dump_description(toy),
        model_files.TOKENIZER: tokenizer,
    }
    stored = model_files.load_model(files, model_files.BASE_WEIGHTS, "toy")
    assert stored.architecture == toy
    assert model_files.dump_weights(stored.model) == files[model_files.BASE_WEIGHTS]
    template = chat_template_named(family.chat_template)
    prompts = [template.render_generation_prompt("Say a", None)]
    generator = Generator(stored, prompts, batch_size=8, max_new_tokens=8)
    (said,) = generator.generate(lambda: None, range(1))
    assert said.tokens <= 8


def test_a_model_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(SpecError, match="model family 'opt' is unknown, expected one of: gemma3"):
        family_named("opt")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_names_a_chat_template(name: str) -> None:
    assert FAMILIES[name].chat_template in CHAT_TEMPLATES


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gemma3_lora_targets_are_all_matrices_but_the_embedding(kv_heads: int) -> None:
    spec = RandomModelSpec(**{**TINY_MODEL, "num_heads": 2, "num_kv_heads": kv_heads})
    names = flat_params(gemma3.build_model(gemma3.architecture_of(spec, 64), 0))
    matrices = {name.split(".")[-2] for name in names if not name.endswith(".scale")}
    assert matrices - {"embedder"} <= set(FAMILIES["gemma3"].lora_targets)
