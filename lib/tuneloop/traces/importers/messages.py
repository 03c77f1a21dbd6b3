"""Import format `messages`: chat messages, or prompt and completion, as other tools write them.

Reasoning is read from fields of its own and from `<think>` blocks in the text. A conversation with
more than one question and a call of a tool are refused, because a trace cannot hold them. A
response without recognizable steps becomes one step, unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.response_text import parse_plain_response
from tuneloop.traces.schema import build_trace
from tuneloop.validation import shorten

_THINK = re.compile(r"\s*<(think|thinking)>(.*?)</\1>(.*)", re.DOTALL)
_THOUGHT = re.compile(r"((?:(?!</?think(?:ing)?>).)*)</think(?:ing)?>(.*)", re.DOTALL)
"""A block without its opening tag, which many chat templates write into the prompt."""
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a reasoning beside the text of a response."""
_CALLS = ("tool_calls", "function_call")


def trace_of_record(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert one record of another tool's training file to a trace.

    Args:
        value: a record with `messages` (or ShareGPT's `conversations`), or with `prompt` and
            `completion` (or `response`). Other keys are copied to meta, where dataset filters can
            use them.
        place: location of the record for error messages, as `FILE:line`.

    Raises:
        DataError: the record has neither form, or it has more than one question and one answer.
    """
    rest = dict(value)
    if "messages" in rest or "conversations" in rest:
        name = "messages" if "messages" in rest else "conversations"
        system, prompt, response, thoughts = _turns(rest.pop(name), name, place)
    else:
        system, prompt = None, rest.pop("prompt", None)
        response = rest.pop("completion", rest.pop("response", None))
        thoughts = _thoughts(rest, place)
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise DataError(
            f"{place}: found the keys {shorten(sorted(value))}, expected messages, or prompt and"
            " completion with text in them; fix the line"
        )
    if system is not None:
        rest["system"] = system
    steps, answer = _steps_and_answer(response)
    if thoughts and steps == [response]:  # the response has no steps of its own
        steps = []
    return build_trace(prompt, [*thoughts, *steps], answer, meta=rest or None)


def _thoughts(record: dict[str, Any], place: str) -> list[str]:
    """Take the reasoning out of a message or record, and refuse calls of tools."""
    for key in _CALLS:
        if record.pop(key, None):
            raise DataError(
                f"{place}: the response has {key}, expected only text, because a trace has no calls"
                " of tools; remove the line, or write the call and its result as text"
            )
    thoughts = []
    for key in _REASONING:
        if isinstance(text := record.get(key), str):
            del record[key]
            # Some servers send the same reasoning under two names.
            if text.strip() and text.strip() not in thoughts:
                thoughts.append(text.strip())
    return thoughts


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
}


def _turns(messages: Any, name: str, place: str) -> tuple[str | None, str, str, list[str]]:
    said: list[tuple[str, str]] = []
    thoughts: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        found = message if isinstance(message, dict) else {}
        role = _ROLES.get(str(found.get("role", found.get("from"))))
        content = found.get("content", found.get("value"))
        if role == "assistant":
            thoughts = _thoughts(dict(found), place)
        if role is None or not isinstance(content, str):
            raise DataError(
                f"{place}: {name} has {shorten(message)}, expected a role of system, user or"
                " assistant and content that is text; fix the line"
            )
        said.append((role, content))
    roles = [role for role, _ in said]
    system = said.pop(0)[1] if roles[:1] == ["system"] else None
    if [role for role, _ in said] != ["user", "assistant"]:
        raise DataError(
            f"{place}: {name} has the roles {roles}, expected one user and one assistant message"
            " after an optional system message; split longer conversations before the import"
        )
    return system, said[0][1], said[1][1], thoughts


def _steps_and_answer(response: str) -> tuple[list[str], str]:
    """Split a response into steps and answer.

    The forms tried in order are tuneloop's own, a `<think>` block, and the whole text as one step.
    """
    parsed = parse_plain_response(response)
    if parsed.answer is not None and parsed.steps:
        return list(parsed.steps), parsed.answer
    if found := _THINK.fullmatch(response):
        thought, answer = found[2].strip(), found[3].strip()
    elif found := _THOUGHT.fullmatch(response):
        thought, answer = found[1].strip(), found[2].strip()
    else:
        return [response], parsed.answer or response
    if not answer:
        return [response], response
    return [thought or answer], answer
