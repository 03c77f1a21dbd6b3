from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from flax import nnx

from tests.builders import TINY_MODEL
from tuneloop.errors import DataError, SpecError
from tuneloop.specs.model import Gemma3Spec, ModelSpecBase, TokenizerSpec
from tuneloop.training.chat_templates import CHAT_TEMPLATES, chat_template_named
from tuneloop.training.generation.sampler import Generator
from tuneloop.training.models import gemma3, model_files
from tuneloop.training.models.parameters import flat_params
from tuneloop.training.models.registry import FAMILIES, ModelFamily, family_named
from tuneloop.training.text.tokenizers import load_tokenizer, train_tokenizer


class ToySpec(ModelSpecBase):
    """A made-up family: a Gemma 3 of fixed shape with one setting of its own."""

    chat_template = "gemma3"
    kind: Literal["toy"] = "toy"
    layers: int = 1


def _shape(spec: ToySpec) -> Gemma3Spec:
    return Gemma3Spec(**{**TINY_MODEL, "num_layers": spec.layers})


def _from_params(spec: ToySpec, vocab_size: int, params: Mapping[str, np.ndarray]) -> nnx.Module:
    return gemma3.build_model_from_params(_shape(spec), vocab_size, params)


TOY: Any = SimpleNamespace(
    build_config=lambda spec, vocab_size: gemma3.build_config(_shape(spec), vocab_size),
    build_model=lambda spec, vocab_size, seed: gemma3.build_model(_shape(spec), vocab_size, seed),
    build_model_from_params=_from_params,
    cache_shape=lambda spec: gemma3.cache_shape(_shape(spec)),
)


def test_a_family_registered_from_outside_is_built_saved_loaded_and_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "toy", ModelFamily(ToySpec, lambda: TOY, ("q_einsum",)))
    tokenizer = train_tokenizer(["user model", "Say a", "Answer: a"], TokenizerSpec(vocab_size=300))
    vocab_size = load_tokenizer(tokenizer).get_piece_size()
    family = family_named("toy")
    model = family.module().build_model(ToySpec(layers=2), vocab_size, 5)
    files = {
        model_files.BASE_WEIGHTS: model_files.dump_weights(model),
        model_files.DESCRIPTION: model_files.dump_description(ToySpec(layers=2), vocab_size),
        model_files.TOKENIZER: tokenizer,
    }
    stored = model_files.load_model(files, model_files.BASE_WEIGHTS, "toy")
    assert stored.description.model == ToySpec(layers=2)
    assert model_files.dump_weights(stored.model) == files[model_files.BASE_WEIGHTS]
    template = chat_template_named(family.chat_template)
    prompts = [template.render_generation_prompt("Say a", None)]
    generator = Generator(stored, prompts, batch_size=8, max_new_tokens=8)
    (said,) = generator.generate(lambda: None, range(1))
    assert said.tokens <= 8


def test_a_model_of_an_unknown_family_is_refused() -> None:
    files = {
        model_files.DESCRIPTION: b'{"model": {"kind": "llama"}, "vocab_size": 64}',
        model_files.BASE_WEIGHTS: b"",
        model_files.TOKENIZER: b"",
    }
    with pytest.raises(
        DataError, match=r"run/model.json: model: kind is .llama., expected one of: gemma3"
    ):
        model_files.load_model(files, model_files.BASE_WEIGHTS, "run")
    with pytest.raises(SpecError, match="model kind 'llama' is unknown, expected one of: gemma3"):
        family_named("llama")


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_names_its_own_kind_and_a_chat_template(kind: str) -> None:
    assert FAMILIES[kind].spec_class.model_fields["kind"].default == kind
    assert FAMILIES[kind].chat_template in CHAT_TEMPLATES


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gemma3_lora_targets_are_all_matrices_but_the_embedding(kv_heads: int) -> None:
    spec = Gemma3Spec(**{**TINY_MODEL, "num_heads": 2, "num_kv_heads": kv_heads})
    names = flat_params(gemma3.build_model(spec, 64, 0))
    matrices = {name.split(".")[-2] for name in names if not name.endswith(".scale")}
    assert matrices - {"embedder"} <= set(FAMILIES["gemma3"].lora_targets)
