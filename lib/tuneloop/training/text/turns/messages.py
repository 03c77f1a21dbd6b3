"""A conversation in the form that chat templates read, with content that spells no control token.

Arguments of tool calls are JSON objects and not text, as transformers and the templates expect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tuneloop.errors import DataError
from tuneloop.training.control_tokens import ControlTokens
from tuneloop.training.conversation import Conversation, Message, ToolCall
from tuneloop.training.renderers import apply_system_instruction
from tuneloop.training.text.layout import Layout, Thinking
from tuneloop.training.thinking_text import split_response, visible_text

Messages = list[dict[str, Any]]
Safe = Callable[[str], str]
"""Changes text so that it spells no control token."""


def template_messages(
    conversation: Conversation,
    instruction: str | None,
    layout: Layout,
    thinking: Thinking,
    control: ControlTokens,
) -> Messages:
    """Build the messages of a conversation, its system text included.

    The instruction of the run comes first, then the conversation's own system text. A template
    without a system role gets both at the beginning of the first user message.

    Args:
        conversation: the conversation.
        instruction: system instruction of the run; None for no text.
        layout: layout of the template.
        thinking: whether reasoning goes into the thinking block or into the text.
        control: the tokens that content must not spell.

    Raises:
        DataError: arguments of a call are not a JSON object, or a result answers no call.
    """
    safe = control.neutralise
    messages = [_message(conversation, each, thinking, safe) for each in conversation.messages]
    link_calls(messages)
    system = "\n\n".join(text for text in (instruction, conversation.system or None) if text)
    if system and layout.has_system_role:
        messages.insert(0, {"role": "system", "content": safe(system)})
    elif system:
        first = next((at for at, each in enumerate(messages) if each["role"] == "user"), None)
        if first is None:
            raise DataError(
                "a conversation without a user message has a system text, but the model's chat"
                " template has no system role; use another model"
            )
        text = apply_system_instruction(conversation.messages[first].content, system)
        messages[first]["content"] = safe(text)
    return messages


def template_tools(conversation: Conversation, control: ControlTokens) -> list[Any]:
    """Build the definitions of the tools of a conversation."""
    tools = [json.loads(bytes(each)) for each in conversation.tools or ()]
    safe: list[Any] = map_strings(tools, control.neutralise)
    return safe


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Copy a JSON value, with every string in it changed, keys of objects included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): map_strings(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [map_strings(each, change) for each in value]
    return value


def _message(
    conversation: Conversation, message: Message, thinking: Thinking, safe: Safe
) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": safe(message.content)}
    if message.role == "assistant" and thinking == "plain":
        found["content"] = visible_text(conversation, message, safe)
    elif message.role == "assistant":
        reasoning, content = message.reasoning or "", message.content
        if not reasoning and not conversation.think_block:
            reasoning, content = split_response(content)
        found |= {"content": safe(content), "reasoning_content": safe(reasoning)}
    if message.calls:
        found["tool_calls"] = [_call(each, safe) for each in message.calls]
    if message.tool_call_id:
        found["tool_call_id"] = safe(message.tool_call_id)
    if message.name:
        found["name"] = safe(message.name)
    return found


def _call(call: ToolCall, safe: Safe) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise DataError(
            f"the arguments of a call of {call.name[:40]} are {call.arguments[:40]!r}, expected a"
            " JSON object as chat templates write it; fix the trace"
        )
    function = {"name": safe(call.name), "arguments": map_strings(arguments, safe)}
    found: dict[str, Any] = {"type": "function", "function": function}
    if call.id:
        found["id"] = safe(call.id)
    return found


def link_calls(messages: Messages) -> None:
    """Give every call an id and every result the id and the name of its call.

    The messages have the form that templates read. Some templates look the name up by the id.
    Calls without an id get one of nine letters and digits, the only form that Mistral's templates
    accept.
    """
    open_calls: list[dict[str, Any]] = []
    number = 0
    for message in messages:
        if message["role"] != "tool":
            open_calls = list(message.get("tool_calls", ()))
            for call in open_calls:
                call.setdefault("id", f"call{number:05d}")
                number += 1
            continue
        call = _answered(message, open_calls)
        open_calls.remove(call)
        message["tool_call_id"] = call["id"]
        message.setdefault("name", call["function"]["name"])


def _answered(result: dict[str, Any], calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Find the call that a result answers: by its id, else by its name, else the first."""
    if "tool_call_id" in result:
        found = [each for each in calls if each["id"] == result["tool_call_id"]]
    elif "name" in result:
        found = [each for each in calls if each["function"]["name"] == result["name"]]
    else:
        found = list(calls)
    if not found:
        raise DataError(
            f"the result {result['content'][:40]!r} of a tool answers no call, expected a call with"
            " its id or name in the message of the assistant before it; fix the trace"
        )
    return found[0]
