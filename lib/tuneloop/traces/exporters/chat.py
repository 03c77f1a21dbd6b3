"""Export formats that are messages: OpenAI's chat API and fine-tuning, TRL and Axolotl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from tuneloop.traces.conversation import turn_messages
from tuneloop.traces.exporters.extras import with_extras
from tuneloop.traces.importers.messages import trace_of_messages
from tuneloop.traces.importers.prompt_completion import trace_of_pair

_CONVERTED = ("reasoning", "tool_calls", "train")
_EMPTY_STEP = {"name": None, "call_id": None}


def final_turn(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages after the prompt, in the form of `schema.ChatMessage`."""
    steps = sorted(trace["steps"], key=lambda step: int(step["i"]))
    return turn_messages(
        (SimpleNamespace(**_EMPTY_STEP | step) for step in steps), trace["final_answer"]
    )


def conversation(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all messages, in the form of `schema.ChatMessage`, without the system message."""
    return [*_history(trace), *final_turn(trace)]


def _history(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*(trace.get("messages") or ()), {"role": "user", "content": trace["prompt"]}]


def with_ids(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give an id to every call of a tool, and to every result in the order of the calls.

    Args:
        messages: messages in the form of `schema.ChatMessage`.

    Returns:
        Copies of the messages. A result without a call keeps no id.
    """
    made: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for at, message in enumerate(messages):
        copy = dict(message)
        if message.get("tool_calls"):
            copy["tool_calls"] = [
                {**call, "id": call.get("id") or f"call_{at}_{number}"}
                for number, call in enumerate(message["tool_calls"])
            ]
            open_calls = [call["id"] for call in copy["tool_calls"]]
        elif message["role"] == "tool":
            identifier = message.get("tool_call_id") or next(iter(open_calls), None)
            if identifier in open_calls:
                open_calls.remove(identifier)
            if identifier is not None:
                copy["tool_call_id"] = identifier
        made.append(copy)
    return made


def openai_messages(
    trace: Mapping[str, Any], messages: Iterable[Mapping[str, Any]], *, system: bool = True
) -> list[dict[str, Any]]:
    """Convert messages to the form of OpenAI's chat API.

    Args:
        trace: the trace, which has the system message.
        messages: messages in the form of `schema.ChatMessage`.
        system: whether the system message comes first.
    """
    first = [{"role": "system", "content": trace["system"]}] if trace.get("system") else []
    return [*(first if system else []), *map(_openai_message, messages)]


def _openai_message(message: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in message.items() if key not in _CONVERTED}
    if message.get("reasoning"):
        made["reasoning_content"] = message["reasoning"]
    if message.get("tool_calls"):
        made["tool_calls"] = [_openai_call(call) for call in message["tool_calls"]]
    if message.get("train") is not None:
        made["weight"] = int(message["train"])
    return made


def _openai_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    made = {"type": "function", "function": function}
    return {"id": call["id"], **made} if call.get("id") else made


def messages_record(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a trace to `{"messages", "tools", "tuneloop"}`; tools are a list of objects."""
    record: dict[str, Any] = {"messages": openai_messages(trace, conversation(trace))}
    if trace.get("tools"):
        record["tools"] = trace["tools"]
    return with_extras(trace, record, trace_of_messages)


def axolotl_record(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a trace to Axolotl's type `chat_template`.

    Every record has the same keys, and tools and arguments of calls are JSON text, because a table
    has one type per column.
    """
    messages = openai_messages(trace, conversation(trace))
    for message in messages:
        if "weight" in message:
            message["train"] = bool(message.pop("weight"))
    record = {
        "messages": messages,
        "tools": _json(trace.get("tools") or []),
    }
    return with_extras(trace, record, trace_of_messages)


def trl_record(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a trace to TRL's conversational form with `prompt` and `completion`.

    The completion is everything after the last message of the user, so TRL's default loss covers
    what tuneloop's does. TRL has no weights of messages. Tools are JSON text, which TRL parses.
    """
    history = [{**message, "train": None} for message in _history(trace)]
    record = {
        "prompt": openai_messages(trace, history),
        "completion": openai_messages(trace, final_turn(trace), system=False),
        "tools": _json(trace.get("tools") or []),
    }
    return with_extras(trace, record, trace_of_pair)


def openai_record(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a trace to a line of OpenAI's supervised fine-tuning.

    OpenAI accepts only its own keys. Reasoning becomes a block of `<think>` before the text, calls
    of tools get ids, and what the line cannot hold is lost: reward, labels, meta, the limits of
    steps and the names of tools at their results.
    """
    messages = openai_messages(trace, with_ids(conversation(trace)))
    for message in messages:
        if message["role"] == "tool":
            message.pop("name", None)
        if reasoning := message.pop("reasoning_content", None):
            message["content"] = f"<think>\n{reasoning}\n</think>\n\n{message['content']}"
    record: dict[str, Any] = {"messages": messages}
    if trace.get("tools"):
        record["tools"] = trace["tools"]
    return record


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
