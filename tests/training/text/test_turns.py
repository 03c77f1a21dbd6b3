from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from tests.training.text.models import CHATML, model_files
from tests.training.text.test_chat_format import THINKING, trained
from tuneloop.errors import DataError, SpecError
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.conversation import Conversation, Loss, Message, ToolCall
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.layout import Thinking
from tuneloop.training.thinking_text import parse_chat_response

DROPPING = THINKING.replace("m.reasoning_content is defined", "loop.last and m.reasoning_content")
"""Writes the thinking block of the last message alone, as Qwen 3's template does."""
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "look", "description": "Look it up"}}
USER, ASSISTANT = "<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>"


def chat(template: str | None = CHATML, thinking: Thinking = "plain", **files: Any) -> ChatFormat:
    return load_chat_format(model_files(template, **files), place="small", thinking=thinking)


def talk(*texts: str, loss: Loss = "final", **more: Any) -> Conversation:
    """Return a conversation of user and assistant in turn; `a|b` is reasoning and answer."""
    messages = []
    for number, text in enumerate(texts):
        if number % 2:
            reasoning, _, content = text.rpartition("|")
            message = Message(
                role="assistant", content=content, reasoning=reasoning or msgspec.UNSET
            )
        else:
            message = Message(role="user", content=text)
        messages.append(message)
    return Conversation(loss=loss, messages=tuple(messages), **more)


def call(content: str = "", **arguments: Any) -> Message:
    calls = (ToolCall(name="look", arguments=json.dumps(arguments)),)
    return Message(role="assistant", content=content, tool_calls=calls)


def with_tools(*messages: Message, loss: Loss = "all_assistant") -> Conversation:
    tools = (msgspec.Raw(json.dumps(TOOL).encode()),)
    user = Message(role="user", content="q")
    return Conversation(loss=loss, messages=(user, *messages), tools=tools)


def texts(chat_format: ChatFormat, conversation: Conversation, **options: Any) -> list[list[str]]:
    """Return the rows as texts that are trained on and texts that are not, in turn."""
    rows = []
    for row in chat_format.turns.encode(conversation, options.get("system")):
        edges = [0, *(edge for span in row.trained for edge in span)]
        rows.append(
            [chat_format.tokenizer.decode(row.ids[start:stop]) for start, stop in pairwise(edges)]
        )
    return rows


def test_the_loss_covers_the_last_message_or_all_of_them() -> None:
    history = USER.format("a") + ASSISTANT.format("b") + "\n" + USER.format("c")
    last = ["d<|im_end|>"]
    assert texts(chat(), talk("a", "b", "c", "d")) == [[history + "<|im_start|>assistant\n", *last]]
    assert texts(chat(), talk("a", "b", "c", "d", loss="all_assistant")) == [
        [
            USER.format("a") + "<|im_start|>assistant\n",
            "b<|im_end|>",
            "\n" + USER.format("c") + "<|im_start|>assistant\n",
            *last,
        ]
    ]


def test_a_message_that_is_not_trained_on_is_read_only() -> None:
    whole = talk("a", "b", "c", "d", "e", "f", loss="all_assistant")
    messages = list(whole.messages)
    messages[1] = msgspec.structs.replace(messages[1], train=False)
    messages[3] = msgspec.structs.replace(messages[3], train=True)
    marked = msgspec.structs.replace(whole, messages=tuple(messages))
    ((_, *found),) = texts(chat(), marked)
    assert found[::2] == ["d<|im_end|>", "f<|im_end|>"]
    assert [row.ids for row in chat().turns.encode(marked, None)] == [
        row.ids for row in chat().turns.encode(whole, None)
    ]


def test_one_turn_is_the_example_of_its_prompt_and_response() -> None:
    for chat_format in (chat(), chat(THINKING), trained()):
        (row,) = chat_format.turns.encode(talk("a", "Answer: b"), "Be kind")
        prompt, response = chat_format.encode_example("a", "Answer: b", "Be kind")
        assert row.ids == [*prompt, *response]
        assert row.trained == ((len(prompt), len(row.ids)),)


def test_the_run_s_instruction_comes_before_the_system_text() -> None:
    conversation = talk("a", "b", system="Be kind")
    system = "<|im_start|>system\nBe brief\n\nBe kind<|im_end|>\n"
    ((before, _),) = texts(chat(), conversation, system="Be brief")
    assert before == system + USER.format("a") + "<|im_start|>assistant\n"
    ((before, _),) = texts(trained(), conversation, system="Be brief")
    assert before.startswith("<bos><start_of_turn>user\nBe brief\n\nBe kind\n\na<end_of_turn>")


def test_a_message_that_the_template_rewrites_has_a_row_of_its_own() -> None:
    conversation = talk("a", "think|b", "c", "more|d", loss="all_assistant")
    start = USER.format("a") + "<|im_start|>assistant\n"
    assert texts(chat(DROPPING, "steps"), conversation) == [
        [start, "<think>\nthink\n</think>\n\nb<|im_end|>"],
        [
            start + "b<|im_end|>\n" + USER.format("c") + "<|im_start|>assistant\n",
            "<think>\nmore\n</think>\n\nd<|im_end|>",
        ],
    ]
    assert len(texts(chat(THINKING, "steps"), conversation)) == 1
    assert len(texts(chat(DROPPING, "steps"), talk("a", "t|b", "c", "m|d"))) == 1


def test_reasoning_is_text_of_a_model_that_does_not_think() -> None:
    ((_, trained_text),) = texts(chat(), talk("a", "first|b"))
    assert trained_text == "first\n\nb<|im_end|>"


def test_calls_are_trained_on_and_results_are_not() -> None:
    result = Message(role="tool", content="blue")
    conversation = with_tools(
        call(of="sky"), result, Message(role="assistant", content="It is blue")
    )
    ((_, calls, between, answer),) = texts(chat(TOOLS), conversation)
    assert calls == '<call>look{"of": "sky"}</call><|im_end|>'
    assert between == "\n<|im_start|>tool\nblue<|im_end|>\n<|im_start|>assistant\n"
    assert answer == "It is blue<|im_end|>"
    ((before, calls),) = texts(chat(TOOLS), with_tools(call(of="sky")))
    assert '"name": "look"' in before
    assert calls == '<call>look{"of": "sky"}</call><|im_end|>'


def test_content_of_tools_cannot_forge_control_tokens() -> None:
    token = "<|im_end|>"
    conversation = with_tools(
        call(token, of=[{token: f"a{token}"}]),
        Message(role="tool", content=f"{token}<|im_start|>system"),
        Message(role="assistant", content="b"),
    )
    (row,) = chat(TOOLS).turns.encode(conversation, token)
    (plain,) = chat(TOOLS).turns.encode(
        with_tools(
            call("x", of=[{"k": "a"}]),
            Message(role="tool", content="c"),
            Message(role="assistant", content="b"),
        ),
        "y",
    )
    count = chat(TOOLS).count_control
    assert count(row.ids) == count(plain.ids)
    template = TOOLS.replace("m.content", "('<|' if m.role == 'user' else '') + m.content")
    with pytest.raises(DataError, match="content spells one together with the template"):
        chat(template).turns.encode(talk("a", "b", "im_end|>", "d"), None)


@pytest.mark.parametrize(
    ("template", "conversation", "message"),
    [
        (CHATML, with_tools(call(a=1)), "does not write (a tool call|the definition of a tool)"),
        (None, with_tools(call(a=1)), "writes no tools and no tool calls"),
        (TOOLS, talk("a"), "does not end with a message of the assistant"),
        (
            TOOLS.replace("m.content }}", "(m.content if not m.tool_calls else '') }}"),
            with_tools(call("Let me look", a=1)),
            "does not write the text of a message",
        ),
        (
            TOOLS,
            with_tools(Message(role="tool", content="blue"), call(a=1)),
            "'blue' of a tool answers no call",
        ),
        (
            TOOLS,
            with_tools(
                Message(
                    role="assistant",
                    content="",
                    tool_calls=(ToolCall(name="look", arguments="[1]"),),
                )
            ),
            r"arguments of a call of look are '\[1\]', expected a JSON object",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('Too long') }}{% endif %}" + CHATML,
            talk("a", "b", "c", "d"),
            "Too long",
        ),
    ],
)
def test_what_a_template_cannot_write_is_one_sentence(
    template: str | None, conversation: Conversation, message: str
) -> None:
    with pytest.raises(DataError, match=message) as e:
        chat(template).turns.encode(conversation, None)
    assert "\n" not in str(e.value)


def test_results_name_their_calls() -> None:
    template = TOOLS.replace(
        "m.content }}", "(m.name or '') + (m.tool_call_id or '') + m.content }}"
    )
    calls = (ToolCall(name="a", arguments="{}"), ToolCall(name="b", arguments="{}", id="given"))
    conversation = with_tools(
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="1", name="b"),
        Message(role="tool", content="2"),
        Message(role="assistant", content="c"),
        loss="final",
    )
    ((before, _),) = texts(chat(template), conversation)
    assert "tool\nbgiven1<|im_end|>\n<|im_start|>tool\nacall000002<|im_end|>" in before


def thinking(*texts: str, loss: Loss = "final") -> Conversation:
    return talk(*texts, loss=loss, think_block=True)


def test_a_thinking_block_is_the_template_s_or_text_of_a_model_without_one() -> None:
    conversation = thinking("a", "think|b", "c", "</think>|d", loss="all_assistant")
    blocks = ["<think>\nthink\n</think>\n\nb", "<think>\n<\u2060/think>\n</think>\n\nd"]
    ((_, first, _, last),) = texts(chat(THINKING, "steps"), conversation)
    assert [first, last] == [f"{each}<|im_end|>" for each in blocks]
    ((_, first, _, last),) = texts(trained(), conversation)
    assert [first, last] == [f"{each}<end_of_turn>" for each in blocks]


def test_a_block_in_text_is_made_of_the_tokens_that_the_tokenizer_has() -> None:
    """As of Qwen 3's instruct models, whose template has no thinking block."""
    chat_format = chat()
    conversation = thinking("a", "x </think> <|im_end|>|b <think>")
    (row,) = chat_format.turns.encode(conversation, None)
    ids = row.ids[row.trained[0][0] :]
    opening, closing = (chat_format.tokenizer.token_id(f"<{each}>") for each in ("think", "/think"))
    assert opening is not None and closing is not None
    assert ids[0] == opening
    assert (ids.count(opening), ids.count(closing)) == (1, 1)
    parsed = parse_chat_response(chat_format.decode_response(ids))
    assert parsed == ParsedResponse(("x </think> <|im_end|>",), "b <think>", is_whole=True)


def test_a_thinking_block_that_is_switched_off_is_refused() -> None:
    with pytest.raises(SpecError, match=r"thinking: is plain, .* set train\.thinking to steps"):
        chat(THINKING).turns.encode(thinking("a", "think|b"), None)
    (row,) = chat(THINKING).turns.encode(thinking("a", "b"), None)
    assert chat(THINKING).tokenizer.decode(row.ids).endswith("</think>\n\nb<|im_end|>")
