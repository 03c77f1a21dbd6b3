from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.training.text.models import CHATML, CHATML_TOKENS, model_files
from tuneloop.errors import DataError, SpecError
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.traces.response_text import (
    ParsedResponse,
    parse_plain_response,
    render_response,
)
from tuneloop.training.renderers import render_generation_prompt, render_training_text
from tuneloop.training.text.chat_format import (
    ChatFormat,
    check_prefix_property,
    load_chat_format,
)
from tuneloop.training.text.layout import Thinking
from tuneloop.training.text.trainer import train_tokenizer
from tuneloop.training.thinking_text import parse_numbered_response

RESPONSE = "Reasoning:\n1. Add 2 and 2\n2. Look\nAnswer: 4"
THINKING = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and m.reasoning_content is defined %}"
    "{{ '<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' }}"
    "{% elif m.role == 'assistant' and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def chatml(
    template: str | None = CHATML, thinking: Thinking = "plain", **config: Any
) -> ChatFormat:
    return load_chat_format(model_files(template, **config), place="small", thinking=thinking)


@cache
def trained() -> ChatFormat:
    sentences = ["user", "model", "What is 2+2?", *RESPONSE.split("\n")] * 5
    model = train_tokenizer(sentences, TokenizerSpec())
    return load_chat_format({"tokenizer.model": model}, place="trained")


def test_a_model_s_own_template_lays_out_prompt_and_response() -> None:
    chat = chatml()
    prompt, response = chat.encode_example("2+2?", RESPONSE, "Be brief")
    assert prompt == chat.encode_prompt("2+2?", "Be brief")
    assert chat.tokenizer.decode(prompt) == (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert chat.tokenizer.decode(response) == f"{RESPONSE}<|im_end|>"
    assert chat.decode_response([*response, *prompt]) == RESPONSE


def test_a_trained_tokenizer_uses_the_renderer_of_gemma() -> None:
    chat = trained()
    for system in (None, "Be brief"):
        prompt, response = chat.encode_example("2+2? <bos>", RESPONSE, system)
        before = "<bos>" + render_generation_prompt("2+2? <bos>", system)
        whole = "<bos>" + render_training_text("2+2? <bos>", RESPONSE, system)
        assert chat.tokenizer.decode(prompt) == before
        assert chat.tokenizer.decode([*prompt, *response]) == whole
        assert chat.decode_response(response) == RESPONSE
    assert (chat.stop_ids, chat.pad_id) == ((5, 1), 0)


def test_shots_are_earlier_turns() -> None:
    ids = chatml().encode_prompt("3+3?", None, [("1+1?", "Answer: 2")])
    assert chatml().tokenizer.decode(ids) == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nAnswer: 2<|im_end|>\n"
        "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"
    )
    text = trained().tokenizer.decode(trained().encode_prompt("c", "s", [("a", "b")]))
    assert text == (
        "<bos><start_of_turn>user\ns\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n"
        "<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
    )


def test_thinking_steps_go_into_the_block_and_come_back() -> None:
    chat = chatml(THINKING, "steps")
    prompt, response = chat.encode_example("2+2?", RESPONSE, None)
    assert chat.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert chat.tokenizer.decode(response) == (
        "<think>\n1. Add 2 and 2\n2. Look\n</think>\n\nAnswer: 4<|im_end|>"
    )
    decoded = chat.decode_response(response)
    assert decoded == "<think>\n1. Add 2 and 2\n2. Look\n</think>\n\nAnswer: 4"
    assert chat.encode_example("2+2?", decoded, None)[1] == response
    assert parse_numbered_response(decoded) == parse_plain_response(RESPONSE)
    assert chat.decode_response(chat.encode_example("q", "Answer: 4", None)[1]) == "Answer: 4"
    cut = chat.decode_response(chat.tokenizer.encode("<think>\n1. Add 2 and 2\n"))
    assert cut == "<think>\n1. Add 2 and 2"
    assert parse_numbered_response(cut) == ParsedResponse(("Add 2 and 2",), None)
    assert chat.decode_response(chat.tokenizer.encode("Answer: 4")) == "Answer: 4"


def test_plain_never_thinks() -> None:
    chat = chatml(THINKING)
    prompt, response = chat.encode_example("2+2?", "<think>a</think>Answer: 4", None)
    assert chat.tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    text = chat.tokenizer.decode(response)
    assert text == "<\u2060think>a<\u2060/think>Answer: 4<|im_end|>"
    assert chat.decode_response(response) == "<think>a</think>Answer: 4"


def test_steps_need_a_template_that_thinks() -> None:
    with pytest.raises(SpecError, match="thinking: is steps, but small"):
        chatml(thinking="steps")


def test_a_template_without_system_role_merges_the_instruction() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No') }}{% endif %}"
    chat = chatml(template + CHATML)
    ids = chat.encode_prompt("2+2?", "Be brief")
    assert chat.tokenizer.decode(ids).startswith("<|im_start|>user\nBe brief\n\n2+2?<|im_end|>")


def test_a_tokenizer_s_post_processor_adds_nothing() -> None:
    assert chatml().tokenizer.encode("") == []


def test_stop_ids_are_the_end_of_the_turn_and_the_ends_of_text() -> None:
    files = {**model_files(), "generation_config.json": b'{"eos_token_id": [256, 259]}'}
    chat = load_chat_format(files, place="small")
    assert chat.stop_ids == (258, 256, 259)
    assert chatml(pad_token="<think>").pad_id == 259
    assert chatml().pad_id == 258


def test_text_after_the_closing_mark_is_not_trained_on() -> None:
    chat = chatml(CHATML + "{{ '<|im_start|>assistant\n' if not add_generation_prompt }}")
    assert chat.tokenizer.decode(chat.encode_example("q", "r", None)[1]) == "r<|im_end|>"


def test_the_digest_follows_tokenizer_template_and_thinking() -> None:
    digests = {
        chatml(THINKING).digest,
        chatml(THINKING, "steps").digest,
        chatml().digest,
        chatml(eos_token="<think>").digest,
        load_chat_format(model_files(added=CHATML_TOKENS[:3]), place="small").digest,
    }
    assert len(digests) == 5
    assert load_chat_format(model_files(), place="elsewhere").digest == chatml().digest


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if", "small/chat_template.jinja: not a Jinja template"),
        ("{{ raise_exception('Never') }}", "fails for a conversation of user"),
        ("{{ messages[0].content }}", "follows the generation prompt, expected the response"),
        (CHATML.replace("m.content", "''"), "drops the user's text"),
        (CHATML.replace("<|im_end|>", ""), "closes the model's turn, expected a control token"),
        (CHATML.split("{% if")[0], "lacks add_generation_prompt"),
        (
            "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
            "more than",
        ),
        ("{{ add_generation_prompt }}" + CHATML, "does not begin with the generation prompt"),
    ],
)
def test_templates_that_cannot_be_used_are_one_sentence(template: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")) as e:
        chatml(template)
    assert "\n" not in str(e.value)


def test_a_model_without_template_gets_that_of_its_turn_marks() -> None:
    chat = chatml(None)
    assert chat.template.place == "built-in chat template qwen2"
    assert chat.encode_example("q", "r", "s") == chatml().encode_example("q", "r", "s")
    with pytest.raises(DataError, match="has none of the turn marks"):
        load_chat_format(model_files(None, added=["<s>"]), place="small")


def test_named_templates_need_a_default() -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    assert chatml(None, chat_template=named).template.source == CHATML
    with pytest.raises(DataError, match="expected one with the name default"):
        chatml(None, chat_template=named[:1])
    with pytest.raises(DataError, match="chat_template is int, expected text"):
        chatml(None, chat_template=3)


def test_a_response_that_merges_with_the_prompt_is_encoded_on_its_own() -> None:
    files = model_files()
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["model"]["vocab"]["ĊĊ"] = 300
    tokenizer["model"]["merges"] = [["Ċ", "Ċ"]]
    files["tokenizer.json"] = json.dumps(tokenizer).encode()
    chat = load_chat_format(files, place="small")
    prompt, response = chat.encode_example("q", "\n Answer: 4", None)
    assert prompt == chat.encode_prompt("q", None)
    assert chat.decode_response(response) == "\n Answer: 4"
    check_prefix_property(chat, [("q", "Answer: 4")])
    with pytest.raises(DataError, match="do not begin with the ids of its prompt"):
        check_prefix_property(chat, [("q", "\n Answer: 4")])


def test_a_template_that_changes_words_breaks_the_prefix_check() -> None:
    chat = chatml(CHATML.replace("m.content", "m.content.replace('4', '5')"))
    check_prefix_property(chat, [("2+2?", "Answer: 3")], "Be brief")
    with pytest.raises(DataError, match="reads 'Answer: 5' after encoding"):
        check_prefix_property(chat, [("2+2?", "Answer: 4")])


HARD = {
    "right to left": "ما هي عاصمة فرنسا؟ תחשוב על זה",
    "emoji": "🗼👩‍👩‍👧🏳️‍🌈",
    "CRLF and BOM": "\ufeffone\r\ntwo\r\n",
    "20,000 characters": "step \n" * 3334,
    "no space in 20,000": "x" * 20_000,
    "controls": "a\x01\x1f\x7fc\u2028",
    "WORD JOINERs": "\u2060<\u2060|im_end|>\u2060\u2060<start\u2060_of_turn>\u2060",
    "only a token": "<|im_end|>",
    "Jinja": "{{ messages }} {% raise %} {# x #}",
    "empty": "",
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("chat", [chatml(), chatml(THINKING, "steps"), trained()])
def test_hard_content_comes_back_unchanged(name: str, chat: ChatFormat) -> None:
    response = render_response([f"first {HARD[name]}.", "second"], f"{HARD[name]}.")
    prompt_ids, ids = chat.encode_example(HARD[name], response, HARD[name])
    decoded = chat.decode_response(ids)
    assert parse_numbered_response(decoded) == parse_plain_response(response)
    if chat.thinking == "plain":
        assert decoded == response
    assert prompt_ids == chat.encode_prompt(HARD[name], HARD[name])
    check_prefix_property(chat, [(HARD[name], response)], HARD[name])


@pytest.mark.parametrize("chat", [chatml(), trained()])
def test_half_a_surrogate_pair_is_a_question_mark(chat: ChatFormat) -> None:
    prompt, response = chat.encode_example("a\ud800b", "Answer: \udfff", "\ud83d")
    assert "a?b" in chat.tokenizer.decode(prompt)
    assert chat.decode_response(response) == "Answer: ?"
    check_prefix_property(chat, [("a\ud800b", "Answer: \udfff")], "\ud83d")


@pytest.mark.parametrize(
    ("prompt", "response"),
    [("q<|", "r"), ("q", "r<|"), ("q<|image", "r")],
)
def test_content_and_template_together_spell_no_control_token(prompt: str, response: str) -> None:
    """The template goes on where the content ends: `<|` + `image|>`."""
    template = CHATML.replace("m.content + ", "m.content + 'image|>' + ")
    chat = chatml(template, added=[*CHATML_TOKENS, "<|image|>", "<|imageimage|>"])
    chat.encode_example("q<|im", "r", "s")
    with pytest.raises(DataError, match="content spells one together with the template"):
        chat.encode_example(prompt, response, None)


@pytest.mark.parametrize("start", ["", "x"])
def test_content_begins_where_the_template_ends_and_spells_no_token(start: str) -> None:
    template = CHATML.replace("m.content", "('<|' if m.role == 'user' else '') + m.content")
    chat = chatml(template, added=[*CHATML_TOKENS, "<|image|>"])
    chat.encode_prompt(f"{start or 'y'}image|>", None)
    if not start:
        with pytest.raises(DataError, match="content spells one together with the template"):
            chat.encode_prompt("image|>", None)


@pytest.mark.parametrize("chat", [chatml(), trained()])
def test_ids_of_rows_that_only_the_model_has_are_no_text(chat: ChatFormat) -> None:
    ids = chat.tokenizer.encode("ab")
    assert chat.decode_response([ids[0], 9999, *ids[1:], 2**31 - 1]) == "ab"


def test_a_sentencepiece_model_reads_control_pieces_and_nothing_else_does() -> None:
    tokenizer = trained().tokenizer
    assert tokenizer.encode("<bos><start_of_turn>a<eos>")[:2] == [2, 4]
    assert tokenizer.encode("<eos>") == [1]
    assert tokenizer.decode([2, 1, 4]) == "<bos><eos><start_of_turn>"
    assert tokenizer.token_id("<no such piece>") is None
    ids = trained().encode_prompt("<bos><eos><pad>", None)
    assert [ids.count(each) for each in (0, 1, 2)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.json": b"{}"}, "small/tokenizer.json: not a tokenizer"),
        ({"tokenizer_config.json": b"{"}, "small/tokenizer_config.json: not valid JSON"),
        ({"tokenizer_config.json": b"[]"}, "found list, expected a JSON object"),
        ({"chat_template.jinja": b"\xff"}, "small/chat_template.jinja: not UTF-8"),
        ({"generation_config.json": b'{"eos_token_id": 999}'}, "holds 999, expected ids from 0"),
        ({"config.json": b'{"eos_token_id": true}'}, "holds True, expected ids"),
        (
            {"tokenizer_config.json": b'{"added_tokens_decoder": {"9": {"content": "<new>"}}}'},
            "<new> becomes id 261, expected 9",
        ),
        (
            {"tokenizer_config.json": b'{"added_tokens_decoder": {"9": 1}}'},
            "added_tokens_decoder is not a description of tokens",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(
    changes: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_chat_format({**model_files(), **changes}, place="small")


def test_tokens_of_the_config_alone_are_added() -> None:
    chat = chatml(added_tokens_decoder={"261": {"content": "<new>", "special": True}})
    assert chat.tokenizer.encode("a<new>") == [*chat.tokenizer.encode("a"), 261]
    assert 261 not in chat.encode_prompt("a<new>", None)


def test_a_folder_without_tokenizer_is_one_sentence() -> None:
    with pytest.raises(DataError, match="small: found no tokenizer, expected"):
        load_chat_format({}, place="small")
    with pytest.raises(DataError, match="found 0 bytes, expected a SentencePiece model"):
        load_chat_format({"tokenizer.model": b""}, place="small")
    with pytest.raises(DataError, match="found 3 bytes, expected a SentencePiece model"):
        load_chat_format({"tokenizer.model": b"abc"}, place="small")


def test_a_tokenizer_that_removes_word_joiners_is_refused() -> None:
    files = model_files()
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["normalizer"] = {
        "type": "Replace",
        "pattern": {"String": "\u2060"},
        "content": "",
    }
    for token in tokenizer["added_tokens"]:
        token["normalized"] = True
    files["tokenizer.json"] = json.dumps(tokenizer).encode()
    with pytest.raises(DataError, match="content could forge it"):
        load_chat_format(files, place="small")


def test_dates_are_pinned() -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ date_string }}" + CHATML
    text = chatml(template).tokenizer.decode(chatml(template).encode_prompt("q", None))
    assert text.startswith("26 Jul 2024 26 Jul 2024<|im_start|>")
