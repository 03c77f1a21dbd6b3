"""The formats of published models give the ids of their own templates, and cannot be forged.

The reference is transformers, which is installed for tests alone.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import pytest

from tests.published_tokenizers import FILES, published_tokenizer
from tests.training.text.texts import forging_text, plain_text, response
from tuneloop.errors import SpecError
from tuneloop.traces.response_text import render_response, split_reasoning
from tuneloop.training.prompt_templates import RECIPES
from tuneloop.training.renderers import render_generation_prompt, render_training_text
from tuneloop.training.text.chat_format import ChatFormat, check_prefix_property, load_chat_format
from tuneloop.training.text.gguf_vocabulary import vocabulary_files
from tuneloop.training.text.layout import Thinking
from tuneloop.training.text.tokenizers import load_tokenizer_files
from tuneloop.training.thinking_text import render_thinking

pytestmark = pytest.mark.slow  # fetches and loads tokenizers of up to 33 MB

FAMILIES = sorted(FILES)
CONVERSATIONS = 250
"""Conversations of each family."""
FORGERIES = 10_000
CLOSING = {
    "gemma3": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "qwen3": "<|im_end|>",
}


@cache
def files_of(family: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in published_tokenizer(family).iterdir()}


@cache
def chat_of(family: str, thinking: Thinking = "plain") -> ChatFormat:
    return load_chat_format(files_of(family), place=family, thinking=thinking)


@cache
def reference_of(family: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(published_tokenizer(family))


def reference_ids(family: str, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return list(
        reference_of(family).apply_chat_template(
            messages, tokenize=True, return_dict=False, date_string="26 Jul 2024", **options
        )
    )


def reference_example(
    family: str, messages: list[dict[str, str]], answer: dict[str, str], *, thinking: bool
) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt, and those after it up to the mark that closes the turn."""
    start = reference_ids(family, messages, add_generation_prompt=True, enable_thinking=thinking)
    whole = reference_ids(family, [*messages, answer])
    assert whole[: len(start)] == start
    rest = whole[len(start) :]
    closing = reference_of(family).convert_tokens_to_ids(CLOSING[family])
    return start, rest[: rest.index(closing) + 1]


def as_read(text: str) -> str:
    """Qwen's tokenizer composes characters, and Gemma's reads U+2581 as a space."""
    return unicodedata.normalize("NFC", text).replace("\u2581", " ")


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_mask_are_those_of_the_model_s_own_template(family: str) -> None:
    rng = random.Random(f"conversations of {family}")
    chat = chat_of(family)
    for number in range(CONVERSATIONS):
        prompt, answer = plain_text(rng), response(rng)
        system = plain_text(rng) if number % 2 else None
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        expected = reference_example(
            family, messages, {"role": "assistant", "content": answer}, thinking=False
        )
        assert chat.encode_example(prompt, answer, system) == expected
        assert chat.encode_prompt(prompt, system) == expected[0]
        assert as_read(chat.decode_response(expected[1])) == as_read(answer)
        check_prefix_property(chat, [(prompt, answer)], system)


@pytest.mark.parametrize("family", FAMILIES)
def test_earlier_turns_are_those_of_the_model_s_own_template(family: str) -> None:
    rng = random.Random(f"shots of {family}")
    for _ in range(20):
        shots = [(plain_text(rng), response(rng)) for _ in range(2)]
        prompt = plain_text(rng)
        messages = [
            {"role": role, "content": content}
            for shot in shots
            for role, content in zip(("user", "assistant"), shot, strict=True)
        ]
        messages.append({"role": "user", "content": prompt})
        expected = reference_ids(
            family, messages, add_generation_prompt=True, enable_thinking=False
        )
        assert chat_of(family).encode_prompt(prompt, None, shots) == expected


def test_steps_of_qwen_go_where_its_template_puts_reasoning() -> None:
    rng = random.Random("thinking")
    chat = chat_of("qwen3", "steps")
    for _ in range(CONVERSATIONS):
        prompt, answer = plain_text(rng), response(rng)
        reasoning, rest = split_reasoning(answer)
        messages = [{"role": "user", "content": prompt}]
        reply = {"role": "assistant", "content": rest, "reasoning_content": reasoning}
        expected = reference_example("qwen3", messages, reply, thinking=True)
        assert chat.encode_example(prompt, answer, None) == expected
        decoded = as_read(render_thinking(reasoning, rest))
        assert as_read(chat.decode_response(expected[1])) == decoded


@pytest.mark.parametrize("family", ["gemma3", "llama3", "llama3_1"])
def test_the_others_do_not_think(family: str) -> None:
    with pytest.raises(SpecError, match="does not write reasoning apart from the answer"):
        chat_of(family, "steps")


@pytest.mark.parametrize(
    ("family", "ids", "rows"),
    [
        ("gemma3", 262_145, 262_144),  # the last id is an image token
        ("llama3", 128_256, 128_256),
        ("llama3_1", 128_256, 128_256),
        ("qwen3", 151_669, 151_936),
    ],
)
def test_conversations_need_no_more_rows_than_published_models_have(
    family: str, ids: int, rows: int
) -> None:
    assert chat_of(family).tokenizer.vocab_size == ids
    assert 128_000 < chat_of(family).vocab_size <= rows


@cache
def control_tokens() -> dict[str, list[str]]:
    """Return the control tokens of every family, sorted."""
    return {family: sorted(chat_of(family).control.tokens) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_content_changes_the_number_of_control_tokens(family: str) -> None:
    chat = chat_of(family)
    own = control_tokens()[family]
    every = sorted({token for tokens in control_tokens().values() for token in tokens})
    rng = random.Random(f"forging {family}")
    tried = rng.sample(own, len(own))
    parse = RECIPES["trace_sft_v1"].parse_response
    expected = {
        system: tuple(
            Counter(each for each in ids if each in chat.control_ids)
            for ids in chat.encode_example("x", "Answer: y", "s" if system else None)
        )
        for system in (True, False)
    }
    texts = FORGERIES // len(FAMILIES)
    for number in range(0, texts, 3):
        # Every token of the family is used whole in turn: in a prompt, a system text, an answer.
        chosen = [tried[(number + each) % len(tried)] for each in range(3)]
        prompt, system, answer = (forging_text(rng, [token], every) for token in chosen)
        if number % 2:
            system = ""
        ids = chat.encode_example(prompt, render_response([], f"{answer}."), system or None)
        counted = tuple(Counter(each for each in part if each in chat.control_ids) for part in ids)
        assert counted == expected[bool(system)]
        found = parse(chat.decode_response(ids[1])).answer
        assert found is not None
        assert as_read(found).split() == as_read(f"{answer}.").split()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_control_token_is_text_in_content(family: str) -> None:
    chat = chat_of(family)
    for token in control_tokens()[family]:
        ids = chat.tokenizer.encode(chat.control.neutralise(f"{token}{token} {token}"))
        assert not chat.control_ids.intersection(ids)
    assert len(chat.control.tokens) == {"gemma3": 6323, "qwen3": 26}.get(family, 256)


def test_the_renderer_of_gemma_equals_the_template() -> None:
    """Apart from white space at the ends of content, which the template removes."""
    rng = random.Random("renderer")
    chat = chat_of("gemma3")
    for number in range(100):
        prompt, answer = plain_text(rng), response(rng)
        system = plain_text(rng) if number % 2 else None
        text = render_training_text(prompt, answer, system)
        before, after = chat.encode_example(prompt, answer, system)
        assert [*before, *after] == chat.tokenizer.encode(f"<bos>{text}")
        start = render_generation_prompt(prompt, system)
        assert before == chat.tokenizer.encode(f"<bos>{start}")
    files = {name: data for name, data in files_of("gemma3").items() if name == "tokenizer.json"}
    builtin = load_chat_format(files, place="base model")
    assert builtin.template.place == "built-in chat template gemma2"
    assert builtin.encode_example("Hi", "Answer: x", "s") == chat.encode_example(
        "Hi", "Answer: x", "s"
    )


@pytest.mark.parametrize("family", ["llama3_1", "qwen3"])
def test_built_in_templates_equal_the_model_s_own(family: str) -> None:
    files = {"tokenizer.json": files_of(family)["tokenizer.json"]}
    builtin = load_chat_format(files, place="base model")
    before, after = builtin.encode_example("Hi there", "Answer: x", "Be brief")
    expected_before, expected_after = chat_of(family).encode_example(
        "Hi there", "Answer: x", "Be brief"
    )
    if family == "qwen3":  # its own template opens and closes an empty thinking block
        block = chat_of(family).tokenizer.encode("<think>\n\n</think>\n\n")
        expected_before = expected_before[: -len(block)]
    assert (before, after) == (expected_before, expected_after)


@pytest.mark.parametrize(
    ("family", "pre"), [("llama3", "llama-bpe"), ("llama3_1", "llama-bpe"), ("qwen3", "qwen2")]
)
def test_a_gguf_file_gives_the_same_tokenizer(family: str, pre: str) -> None:
    content = json.loads(files_of(family)["tokenizer.json"])
    ids = dict(content["model"]["vocab"])
    types = dict.fromkeys(ids, 1)
    for token in content["added_tokens"]:
        ids[token["content"]] = token["id"]
        types[token["content"]] = 3 if token["special"] else 4
    tokens = sorted(ids, key=ids.__getitem__)
    merges = content["model"]["merges"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [types[token] for token in tokens],
        "tokenizer.ggml.merges": [
            line if isinstance(line, str) else " ".join(line) for line in merges
        ],
    }
    built = load_tokenizer_files(vocabulary_files(fields, "m.gguf"), "m")
    rng = random.Random(f"gguf {family}")
    for _ in range(100):
        text = plain_text(rng, 30)
        assert built.encode(text) == chat_of(family).tokenizer.encode(text)


def test_a_gguf_file_of_gemma_gives_the_same_ids() -> None:
    """Its vocabulary is SentencePiece's: pieces with scores, here made from the order of merges."""
    content = json.loads(files_of("gemma3")["tokenizer.json"])
    ids = dict(content["model"]["vocab"])
    types = {token: 6 if re.fullmatch("<0x..>", token) else 1 for token in ids}
    for token in content["added_tokens"]:
        ids[token["content"]] = token["id"]
        types[token["content"]] = 3 if token["special"] else 4
    types["<unk>"] = 2
    scores: dict[str, float] = {}
    for rank, merge in enumerate(content["model"]["merges"]):
        scores.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), -rank)
    tokens = sorted(ids, key=ids.__getitem__)
    fields = {
        "general.architecture": "gemma3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [scores.get(token, -1e6) for token in tokens],
        "tokenizer.ggml.token_type": [types[token] for token in tokens],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": json.loads(files_of("gemma3")["tokenizer_config.json"])[
            "chat_template"
        ],
    }
    built = load_chat_format(vocabulary_files(fields, "m.gguf"), place="m")
    rng = random.Random("gguf gemma3")
    for _ in range(200):
        prompt, answer, system = plain_text(rng, 20), response(rng), plain_text(rng)
        expected = chat_of("gemma3").encode_example(prompt, answer, system)
        assert built.encode_example(prompt, answer, system) == expected
