"""Convert between the steps of a trace and the messages of a conversation.

A trace holds the last turn of a conversation as prompt, steps and final answer. The assistant of
that turn may think, write, call tools, read their results and go on. Each of these is a step, and
consecutive steps that belong to one message are grouped again here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from tuneloop.traces.schema import (
    MAX_STEP_CHARACTERS,
    MESSAGE,
    TOOL_CALL,
    TOOL_RESULT,
    build_trace,
)

Message = dict[str, Any]
"""A message in the form of `schema.ChatMessage`, without fields that are not set."""
_BETWEEN_STEPS = "\n\n"


class Step(Protocol):
    """A step of a trace, with the fields of `schema.TraceStep` or `fast.StoredStep`."""

    @property
    def type(self) -> str:
        """Same as in `schema.TraceStep`."""

    @property
    def content(self) -> str:
        """Same as in `schema.TraceStep`."""

    @property
    def name(self) -> Any:
        """Same as in `schema.TraceStep`, or UNSET."""

    @property
    def call_id(self) -> Any:
        """Same as in `schema.TraceStep`, or UNSET."""


@dataclass
class _Pending:
    """An assistant message that is being put together."""

    reasoning: list[str] = field(default_factory=list)
    content: str = ""
    calls: list[Message] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)

    def message(self) -> Message:
        made: Message = {"role": "assistant", "content": self.content}
        if self.reasoning:
            made["reasoning"] = join_reasoning_steps(self.reasoning)
        if self.calls:
            made["tool_calls"] = self.calls
        return made


def join_reasoning_steps(steps: Sequence[str]) -> str:
    """Join steps of reasoning into the reasoning of one message, with an empty line between two."""
    return _BETWEEN_STEPS.join(steps)


def split_reasoning_steps(text: str) -> list[str]:
    """Split reasoning that is too long for one step at empty lines.

    `join_reasoning_steps` gives the text back. A part without an empty line stays too long.
    """
    parts = []
    while len(text) > MAX_STEP_CHARACTERS:
        at = text.rfind(_BETWEEN_STEPS, 1, MAX_STEP_CHARACTERS)
        if at < 1 or not text[at + len(_BETWEEN_STEPS) :]:
            break
        parts.append(text[:at])
        text = text[at + len(_BETWEEN_STEPS) :]
    return [*parts, text]


def turn_messages(steps: Iterable[Step], final_answer: str) -> list[Message]:
    """Return the messages after the prompt.

    Args:
        steps: steps of a trace, sorted by `i`.
        final_answer: its answer; empty if the last step is the call of a tool.

    Returns:
        Messages of assistant and tools; the last one is an assistant's. Steps of reasoning in one
        message are joined by an empty line.
    """
    messages: list[Message] = []
    pending = _Pending()

    def flush() -> None:
        nonlocal pending
        if pending:
            messages.append(pending.message())
            pending = _Pending()

    for step in steps:
        if step.type == TOOL_RESULT:
            flush()
            messages.append(_result(step))
        elif step.type == TOOL_CALL:
            pending.calls.append(_call(step))
        elif step.type == MESSAGE:
            if pending.content or pending.calls:
                flush()
            pending.content = step.content
        else:
            if pending.content or pending.calls:
                flush()
            pending.reasoning.append(step.content)
    if final_answer:
        if pending.content or pending.calls:
            flush()
        pending.content = final_answer
    flush()
    return messages


def _call(step: Step) -> Message:
    made: Message = {"name": step.name or "", "arguments": step.content}
    if _is_set(step.call_id):
        made["id"] = step.call_id
    return made


def _result(step: Step) -> Message:
    made: Message = {"role": "tool", "content": step.content}
    if _is_set(step.call_id):
        made["tool_call_id"] = step.call_id
    if _is_set(step.name):
        made["name"] = step.name
    return made


def _is_set(value: Any) -> bool:
    return value is not None and value is not msgspec.UNSET


def trace_of_conversation(
    messages: Sequence[Message],
    *,
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    meta: dict[str, Any] | None = None,
    **chat: Any,
) -> dict[str, Any]:
    """Build a trace of a whole conversation; `turn_messages` gives the last turn back.

    Args:
        messages: messages of user, assistant and tools, oldest first, in the form of
            `schema.ChatMessage`.
        system: the system message.
        tools: definitions of tools.
        meta: any data to keep with the trace.
        chat: `reward` and `labels`.

    Raises:
        ValueError: the conversation has no answer, or two messages in a row would become one. The
            text is the end of a sentence: what was found, and what was expected.
    """
    users = [at for at, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise ValueError("has no message of a user, expected one")
    last = users[-1]
    steps, answer = _steps_of_turn(messages[last + 1 :])
    return build_trace(
        messages[last]["content"],
        steps,
        answer,
        meta=meta,
        system=system,
        messages=list(messages[:last]) or None,
        tools=list(tools) if tools else None,
        **chat,
    )


def _steps_of_turn(turn: Sequence[Message]) -> tuple[list[Message], str]:
    if not turn or turn[-1]["role"] != "assistant":
        ends = turn[-1]["role"] if turn else "user"
        raise ValueError(f"ends with a message of {ends}, expected one of the assistant")
    steps: list[Message] = []
    for at, message in enumerate(turn):
        if message["role"] == "tool":
            steps.append(_step_of_result(message))
            continue
        calls = message.get("tool_calls") or []
        is_last = at == len(turn) - 1
        _check_assistant(message, turn[at - 1] if at else None, is_last=is_last)
        if reasoning := message.get("reasoning"):
            steps.append({"type": "reason", "content": reasoning})
        if message["content"] and not (is_last and not calls):
            steps.append({"type": MESSAGE, "content": message["content"]})
        steps += [_step_of_call(call) for call in calls]
    is_call = bool(turn[-1].get("tool_calls"))
    return steps, "" if is_call else turn[-1]["content"]


def _check_assistant(message: Message, before: Message | None, *, is_last: bool) -> None:
    says = message["content"] or message.get("tool_calls")
    if not says:
        what = "no text" if is_last else "neither text nor a call of a tool"
        raise ValueError(f"has a message of the assistant with {what}, expected an answer")
    follows_assistant = before is not None and before["role"] == "assistant"
    if follows_assistant and not message["content"] and not message.get("reasoning"):
        raise ValueError(
            "has two messages of the assistant in a row, of which the second only calls tools,"
            " expected the results of calls between them, or one message"
        )


def _step_of_call(call: Mapping[str, Any]) -> Message:
    step = {"type": TOOL_CALL, "content": call["arguments"], "name": call["name"]}
    return step | ({"call_id": call["id"]} if "id" in call else {})


def _step_of_result(message: Message) -> Message:
    step = {"type": TOOL_RESULT, "content": message["content"]}
    if "name" in message:
        step["name"] = message["name"]
    return step | ({"call_id": message["tool_call_id"]} if "tool_call_id" in message else {})
