"""1,000 conversations go in through every format and type of file, and come out equal."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.traces.conversations import Drawn
from tuneloop.errors import DataError
from tuneloop.storage.rows.source import Source, iter_rows
from tuneloop.traces.conversation import trace_of_conversation
from tuneloop.traces.exporters.chat import conversation, messages_record
from tuneloop.traces.importers.table import IMPORTERS
from tuneloop.traces.schema import ReasoningTrace

Chat = dict[str, Any]
COUNT = 1000


def read(name: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Import one record; returns the traces in it, which are valid."""
    row = IMPORTERS[name]
    split = (lambda value, place: [(place, value)]) if row.split is None else row.split()
    found = [
        dict(row.convert()(part, place)) for place, part in split(record, "f:1") if part is not None
    ]
    for trace in found:
        ReasoningTrace.model_validate(trace)
    return found


def chats(**options: Any) -> list[Chat]:
    return [Drawn(seed).conversation(**options) for seed in range(COUNT)]


def as_chat(trace: dict[str, Any]) -> Chat:
    return {
        "system": trace.get("system"),
        "tools": trace.get("tools"),
        "messages": conversation(trace),
    }


def in_text(message: dict[str, Any], mark: tuple[str, str] = ("<think>", "</think>")) -> str:
    """Return the content with its reasoning as a block, as ShareGPT and Alpaca files have it."""
    if "reasoning" not in message:
        return str(message["content"])
    return f"{mark[0]}\n{message['reasoning']}\n{mark[1]}\n\n{message['content']}"


def _sharegpt(chat: Chat) -> dict[str, Any]:
    turns = []
    for message in chat["messages"]:
        if message["role"] == "tool":
            turns.append({"from": "observation", "value": message["content"]})
        elif message.get("tool_calls"):
            calls = [
                {"name": call["name"], "arguments": call["arguments"]}
                for call in message["tool_calls"]
            ]
            turns.append({"from": "function_call", "value": json.dumps(calls)})
        else:
            source = {"user": "human", "assistant": "gpt"}[message["role"]]
            text = in_text(message) if source == "gpt" else message["content"]
            turns.append({"from": source, "value": text})
    tools = json.dumps(chat["tools"]) if chat["tools"] else ""
    return {"conversations": turns, "system": chat["system"] or "", "tools": tools}


def _of_sharegpt(chat: Chat) -> Chat:
    """Return what a ShareGPT record holds of a conversation: calls without text and ids."""
    messages = []
    for message in chat["messages"]:
        kept = {key: each for key, each in message.items() if key != "tool_call_id"}
        if message.get("tool_calls"):
            calls = [
                {key: call[key] for key in ("name", "arguments")} for call in kept["tool_calls"]
            ]
            kept = {"role": "assistant", "content": "", "tool_calls": calls}
        messages.append(kept)
    return {**chat, "messages": messages}


def _alpaca(chat: Chat) -> dict[str, Any]:
    *history, asked, answered = chat["messages"]
    pairs = [
        [one["content"], in_text(two)] for one, two in zip(history[::2], history[1::2], strict=True)
    ]
    return {
        "instruction": asked["content"],
        "input": "",
        "output": in_text(answered),
        "system": chat["system"],
        "history": pairs,
    }


def _pair(chat: Chat) -> dict[str, Any]:
    asked, answered = chat["messages"]
    return {
        "prompt": asked["content"],
        "completion": in_text(answered, ("[THINK]", "[/THINK]")),
        "system": chat["system"],
    }


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def _span_message(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        identifier, result = message["tool_call_id"], message["content"]
        part = {"type": "tool_call_response", "id": identifier, "response": result}
        return {"role": "tool", "parts": [part]}
    parts: list[dict[str, Any]] = []
    if "reasoning" in message:
        parts.append({"type": "reasoning", "content": message["reasoning"]})
    if message["content"]:
        parts.append({"type": "text", "content": message["content"]})
    for call in message.get("tool_calls", ()):
        parts.append({"type": "tool_call", **call})
    return {"role": message["role"], "parts": parts}


def _span(chat: Chat) -> dict[str, Any]:
    *asked, answered = map(_span_message, chat["messages"])
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": json.dumps(asked),
        "gen_ai.output.messages": json.dumps([{**answered, "finish_reason": "stop"}]),
    }
    if chat["system"]:
        part = {"type": "text", "content": chat["system"]}
        values["gen_ai.system_instructions"] = json.dumps([part])
    if chat["tools"]:
        flat = [{"type": "function", **each["function"]} for each in chat["tools"]]
        values["gen_ai.tool.definitions"] = json.dumps(flat)
    span = {"traceId": "t", "spanId": "s", "name": "chat m", "attributes": _attributes(values)}
    tool = {"name": "execute_tool", "attributes": _attributes({"gen_ai.operation.name": "x"})}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [tool, span]}]}]}


WRITERS: dict[str, tuple[Callable[[Chat], dict[str, Any]], dict[str, Any]]] = {
    "sharegpt": (_sharegpt, {}),
    "alpaca": (_alpaca, {"tools": False}),
    "prompt_completion": (_pair, {"tools": False, "turns": 1}),
    "otel": (_span, {}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_1000_conversations_of_each_format_come_out_equal(name: str) -> None:
    write, options = WRITERS[name]
    for chat in chats(**options):
        (trace,) = read(name, json.loads(json.dumps(write(chat))))
        expected = _of_sharegpt(chat) if name == "sharegpt" else chat
        assert as_chat(trace) == expected


def test_1000_problems_of_gsm8k_come_out_equal() -> None:
    for seed in range(COUNT):
        drawn = Drawn(seed)
        lines = [drawn.plain().replace("\n", " ") for _ in range(seed % 4)]
        answer = str(seed)
        solution = "\n".join([*lines, f"#### {answer}"])
        (trace,) = read("gsm8k", {"question": drawn.plain(), "answer": solution, "n": seed})
        assert [step["content"] for step in trace["steps"]] == lines
        assert (trace["final_answer"], trace["meta"]) == (answer, {"n": seed})


def _records(chats: list[Chat]) -> list[dict[str, Any]]:
    return [
        messages_record(
            trace_of_conversation(chat["messages"], system=chat["system"], tools=chat["tools"])
        )
        for chat in chats
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [row.value for row in iter_rows(Source(str(path)))]
    assert None not in rows
    return [row for row in rows if row is not None]


def test_1000_conversations_of_a_table_of_messages_come_out_equal(tmp_path: Path) -> None:
    """Arrow gives every message all keys of the column, with null where it has none."""
    drawn = chats()
    rows = [{**row, "tools": json.dumps(row.get("tools") or [])} for row in _records(drawn)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        made = [read("messages", row)[0] for row in _rows(tmp_path / name)]
        assert [as_chat(trace) for trace in made] == drawn


def test_1000_pairs_of_csv_come_out_equal(tmp_path: Path) -> None:
    drawn = chats(tools=False, turns=1, system=False)
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completion"])
        for chat in drawn:
            writer.writerow([chat["messages"][0]["content"], in_text(chat["messages"][1])])
    made = [read("prompt_completion", row)[0] for row in _rows(path)]
    assert [as_chat(trace) for trace in made] == drawn


def test_tools_of_a_table_have_no_keys_of_each_other(tmp_path: Path) -> None:
    tools = [
        {"name": name, "parameters": {"type": "object", "properties": {key: {"type": "string"}}}}
        for name, key in (("look", "at"), ("open", "door"))
    ]
    call = {"function": {"name": "look", "arguments": {"at": "sky"}}}
    messages = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    rows = [{"messages": messages, "tools": tools, "meta": [{"a": 1}, {"b": 2}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    ((trace,),) = [read("messages", row) for row in _rows(tmp_path / "a.parquet")]
    assert [tool["function"] for tool in trace["tools"]] == tools
    assert trace["steps"][0]["content"] == '{"at": "sky"}'
    assert trace["meta"] == {"meta": [{"a": 1}, {"b": 2}]}


def test_cells_of_csv_that_are_empty_are_absent(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'prompt,completion,reward,labels\na,b,,\nc,d,0.5,"{""good"": true}"\n'
    )
    found = [read("prompt_completion", row)[0] for row in _rows(tmp_path / "a.csv")]
    assert [(trace.get("reward"), trace.get("labels")) for trace in found] == [
        (None, None),
        (0.5, {"good": True}),
    ]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sharegpt", {"items": []}, "f:1: found the keys ['items'], expected conversations"),
    (
        "sharegpt",
        {"conversations": [{"from": "function_call", "value": "look(sky)"}]},
        "f:1: message 1: broken JSON (Expecting value at column 1), expected JSON text; fix",
    ),
    ("otel", {"messages": []}, "f:1: found the keys ['messages'], expected a span"),
    *(
        (
            "otel",
            {"name": "chat", "attributes": [{"key": "n", "value": {"intValue": value}}]},
            "f:1: n: intValue is",
        )
        for value in ("x", None, 1.5, True, "9" * 5000)
    ),
]


@pytest.mark.parametrize(("name", "record", "said"), REFUSED)
def test_a_record_of_another_form_is_refused(name: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(name, record)
    assert str(caught.value).startswith(said)


def test_integers_of_otlp_are_exact_and_other_signals_are_skipped() -> None:
    listed = [{"key": "n", "value": {"intValue": text}} for text in ("-9223372036854775808", 7)]
    messages = {
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "a"}]}],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "b"}]}
        ],
    }
    texts = [
        {"key": key, "value": {"stringValue": json.dumps(value)}} for key, value in messages.items()
    ]
    spans = [{"name": "chat", "attributes": [one, *texts]} for one in listed]
    found = read("otel", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    numbers = [trace["meta"]["otel"]["attributes"]["n"] for trace in found]
    assert numbers == [-9223372036854775808, 7]
    assert read("otel", {"resourceLogs": []}) == []
