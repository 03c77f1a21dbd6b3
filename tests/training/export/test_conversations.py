"""Examples of traces of version 1.1: chats, earlier turns, system texts and tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.builders import stored_row
from tests.training.text.test_chat_format import THINKING, chatml, trained
from tuneloop import jsonl
from tuneloop.errors import DataError
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.traces.schema import build_trace
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.conversation import Loss
from tuneloop.training.export.examples import build_example
from tuneloop.training.export.formats import (
    messages_record,
    prompt_completion_record,
    training_example_record,
    tunix_sft_record,
)
from tuneloop.training.export.inspect import (
    example_texts,
    inspect_example,
    inspect_text,
    inspect_window,
)
from tuneloop.training.schema import TrainingExample, parse_example
from tuneloop.training.text.rows import encode_rows
from tuneloop.training.thinking_text import parse_chat_response

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
HISTORY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello", "reasoning": "greet"},
]
CALL = {"type": "tool_call", "name": "look", "content": '{"at": "sky"}', "call_id": "c1"}
RESULT = {"type": "tool_result", "content": "blue", "call_id": "c1"}


def made(folder: Path, trace: dict[str, Any], **manifest: Any) -> TrainingExample:
    example = build_example(*stored_row(folder, trace, **manifest))
    line = jsonl.encode_line(example)
    assert parse_example(line, "x") == example
    assert line == jsonl.dump_line(json.loads(line))
    return example


def conversation(example: TrainingExample) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(jsonl.encode_line(example.conversation))
    return found


def test_a_chat_answer_is_trained_on_once(tmp_path: Path) -> None:
    example = made(tmp_path, build_trace("Hi?", [], "Hello!"))
    assert (example.prompt, example.response) == ("Hi?", "Hello!")
    assert example.conversation is msgspec.UNSET


@pytest.mark.parametrize("source", ["sample", "evaluation"])
def test_an_answer_that_a_model_gave_keeps_its_form(tmp_path: Path, source: str) -> None:
    example = made(tmp_path, build_trace("2+2?", [], "4", meta={"source": source}))
    assert example.response == "Answer: 4"


def test_a_reward_changes_nothing_else(tmp_path: Path) -> None:
    plain = made(tmp_path / "a", build_trace("2+2?", ["Add"], "4"))
    example = made(tmp_path / "b", build_trace("2+2?", ["Add"], "4", reward=0.5))
    assert (example.prompt, example.response) == (plain.prompt, plain.response)
    assert example.conversation is msgspec.UNSET


def test_earlier_turns_system_and_tools_make_a_conversation(tmp_path: Path) -> None:
    trace = build_trace(
        "Colour?",
        ["I look", {"type": "message", "content": "One moment"}, CALL, RESULT, "So it is"],
        "Blue",
        system="Be kind",
        messages=HISTORY,
        tools=[TOOL],
    )
    example = made(tmp_path, trace, instruction="Think")
    assert (example.prompt, example.response) == (
        "Colour?\n\nThink",
        "Reasoning:\n1. So it is\nAnswer: Blue",
    )
    assert conversation(example) == {
        "loss": "final",
        "messages": [
            *HISTORY,
            {"role": "user", "content": example.prompt},
            {
                "role": "assistant",
                "content": "One moment",
                "reasoning": "I look",
                "tool_calls": [{"name": "look", "arguments": '{"at": "sky"}', "id": "c1"}],
            },
            {"role": "tool", "content": "blue", "tool_call_id": "c1"},
            {"role": "assistant", "content": example.response},
        ],
        "system": "Be kind",
        "tools": [TOOL],
    }
    covered = [text for text, is_covered in example_texts(example) if is_covered]
    assert covered == [example.response + "\n"]


def test_answers_alone_have_no_reasoning_in_their_turn(tmp_path: Path) -> None:
    trace = build_trace("q", ["Think", CALL, RESULT, "More"], "Blue", messages=HISTORY)
    example = made(tmp_path, trace, recipe="answer_only_v1")
    messages = conversation(example)["messages"]
    assert "reasoning" not in messages[3]
    assert messages[-1] == {"role": "assistant", "content": "Answer: Blue"}
    assert messages[1] == HISTORY[1]


def test_a_turn_can_end_with_a_call(tmp_path: Path) -> None:
    example = made(tmp_path, build_trace("Colour?", ["Hm", CALL], "", tools=[TOOL]))
    assert example.response == 'Hm\nlook({"at": "sky"})'
    assert conversation(example)["messages"][-1]["tool_calls"][0]["name"] == "look"


def test_steps_of_version_1_0_are_reasoning_whatever_their_type(tmp_path: Path) -> None:
    trace = build_trace("q", ["a"], "b")
    trace["steps"][0]["type"] = "tool_call"
    example = made(tmp_path, trace)
    assert example.response == "Reasoning:\n1. a\nAnswer: b"
    assert example.conversation is msgspec.UNSET


def test_critiques_keep_the_conversation_before_them(tmp_path: Path) -> None:
    meta = {"correction": {"final_answer": "4", "steps": ["Add"]}}
    trace = build_trace("2+2?", ["Guess"], "5", meta=meta, messages=HISTORY)
    example = made(tmp_path / "a", trace, recipe="critique_v1")
    assert [each["role"] for each in conversation(example)["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    trace = build_trace("2+2?", [CALL, RESULT], "5", meta=meta)
    with pytest.raises(DataError, match="calls tools, which critique_v1 has no form for"):
        made(tmp_path / "b", trace, recipe="critique_v1")


def test_other_formats_hold_the_conversation_or_refuse_it(tmp_path: Path) -> None:
    trace = build_trace("Colour?", [CALL, RESULT], "Blue", system="Be kind", tools=[TOOL])
    row, manifest = stored_row(tmp_path, trace)
    example = build_example(row, manifest)
    found = json.loads(jsonl.encode_line(messages_record(example)))
    assert found["tools"] == [TOOL]
    assert [each["role"] for each in found["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]
    assert found["messages"][2]["tool_calls"] == [
        {
            "type": "function",
            "id": "c1",
            "function": {"name": "look", "arguments": '{"at": "sky"}'},
        }
    ]
    record = training_example_record(row, manifest)
    assert json.loads(jsonl.encode_line(record))["conversation"] == conversation(example)
    with pytest.raises(DataError, match="is a conversation, which prompt_completion cannot hold"):
        prompt_completion_record(example)
    with pytest.raises(DataError, match="is part of a conversation, but format tunix_sft"):
        tunix_sft_record(row, manifest)


@pytest.mark.parametrize(
    ("loss", "mark"),
    [("final", {}), ("all_assistant", {}), ("all_assistant", {"train": False})],
)
def test_a_conversation_is_inspected_as_it_is_trained_on(
    tmp_path: Path, loss: Loss, mark: dict[str, bool]
) -> None:
    history = [HISTORY[0], HISTORY[1] | mark]
    trace = build_trace("Colour?", [], "Blue <end_of_turn>", system="Be kind", messages=history)
    example = made(tmp_path, trace)
    assert example.conversation is not msgspec.UNSET
    changed = msgspec.structs.replace(example.conversation, loss=loss)
    example = msgspec.structs.replace(example, conversation=changed)
    covered = ["Blue <\u2060end_of_turn><end_of_turn>"]
    if loss == "all_assistant" and not mark:
        covered.insert(0, "greet\n\nHello<end_of_turn>")
    text = inspect_text(example, chat_template_named("gemma3"), "Be brief")
    assert [piece.text for piece in text.pieces if piece.trained] == covered
    assert "".join(piece.text for piece in text.pieces) == text.text
    assert text.roles == text.expected_roles == ("user", "model", "user", "model")
    tokens = inspect_example(example, trained(), "Be brief")
    assert "".join(piece.text for piece in tokens.pieces if piece.trained) == "".join(covered)
    assert tokens.text == "<bos>" + text.text
    assert tokens.expected_roles == ("user", "assistant", "user", "assistant")
    window = inspect_window(example, trained(), "Be brief", start=3, count=5)
    assert window.pieces == tokens.pieces[3:8]
    assert (window.total, window.trained) == (tokens.total, tokens.trained)


def test_tools_need_a_model_to_be_inspected(tmp_path: Path) -> None:
    example = made(tmp_path, build_trace("Colour?", [CALL, RESULT], "Blue"))
    with pytest.raises(DataError, match="uses tools, which no built-in chat template writes"):
        inspect_text(example, chat_template_named("gemma3"), None)


def chat(folder: Path, steps: list[Any], answer: str, **fields: Any) -> TrainingExample:
    return made(folder, build_trace("Colour?", steps, answer, **fields), recipe="chat_v1")


def test_a_chat_has_its_reasoning_in_a_block_and_its_answer_bare(tmp_path: Path) -> None:
    example = chat(tmp_path / "a", ["I look.\n\nBlue?", "Yes"], "It is *blue*.")
    assert example.response == "<think>\nI look.\n\nBlue?\n\nYes\n</think>\n\nIt is *blue*."
    assert conversation(example) == {
        "loss": "final",
        "messages": [
            {"role": "user", "content": "Colour?"},
            {
                "role": "assistant",
                "content": "It is *blue*.",
                "reasoning": "I look.\n\nBlue?\n\nYes",
            },
        ],
        "think_block": True,
    }
    assert example.is_pair
    assert prompt_completion_record(example)["completion"] == example.response
    last = json.loads(jsonl.encode_line(messages_record(example)))["messages"][-1]
    assert last["reasoning_content"] == "I look.\n\nBlue?\n\nYes"
    for source in (None, "sample"):
        meta = {"source": source}
        bare = chat(tmp_path / f"{source}", [], "It is blue", meta=meta)
        assert (bare.response, bare.conversation) == ("It is blue", msgspec.UNSET)


def test_a_chat_keeps_its_turns_its_tools_and_their_reasoning(tmp_path: Path) -> None:
    steps = ["I look", CALL, RESULT, "So it is"]
    example = chat(tmp_path / "a", steps, "Blue", system="Be kind", messages=HISTORY, tools=[TOOL])
    assert example.response == "<think>\nSo it is\n</think>\n\nBlue"
    found = conversation(example)
    assert found["messages"][1] == HISTORY[1]
    assert [each.get("reasoning") for each in found["messages"]] == [
        *(None, "greet", None, "I look", None, "So it is")
    ]
    assert (found["system"], found["think_block"]) == ("Be kind", True)
    with pytest.raises(DataError, match="prompt_completion cannot hold"):
        prompt_completion_record(example)
    last = conversation(chat(tmp_path / "b", ["Hm", CALL], "", tools=[TOOL]))["messages"][-1]
    assert (last["reasoning"], last["tool_calls"][0]["name"]) == ("Hm", "look")


@pytest.mark.parametrize(
    "answer", ["Write </think> to end it", "<think>", "Reasoning:\n1. a\nAnswer: b", "Answer: 4"]
)
def test_an_answer_that_reads_like_reasoning_is_none(tmp_path: Path, answer: str) -> None:
    example = chat(tmp_path, [], answer)
    ids = encode_rows(example, chatml(THINKING, "steps"), None)[0]
    decoded = chatml(THINKING, "steps").decode_response(ids.ids[ids.trained[0][0] :])
    assert parse_chat_response(decoded) == ParsedResponse((), answer, is_whole=True)
    (row,) = encode_rows(example, trained(), None)
    decoded = trained().decode_response(row.ids[row.trained[0][0] :])
    assert decoded == example.response
    assert parse_chat_response(decoded) == ParsedResponse((), answer, is_whole=True)


def test_a_chat_is_inspected_as_a_model_without_a_thinking_block_writes_it(tmp_path: Path) -> None:
    example = chat(tmp_path, ["Is </think> <end_of_turn> it?"], "Blue", messages=HISTORY)
    assert example.conversation is not msgspec.UNSET
    changed = msgspec.structs.replace(example.conversation, loss="all_assistant")
    example = msgspec.structs.replace(example, conversation=changed)
    covered = [
        "<think>\ngreet\n</think>\n\nHello<end_of_turn>",
        "<think>\nIs <\u2060/think> <\u2060end_of_turn> it?\n</think>\n\nBlue<end_of_turn>",
    ]
    text = inspect_text(example, chat_template_named("gemma3"), None)
    assert [piece.text for piece in text.pieces if piece.trained] == covered
    tokens = inspect_example(example, trained(), None)
    assert "".join(piece.text for piece in tokens.pieces if piece.trained) == "".join(covered)
