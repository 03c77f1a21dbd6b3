"""Import format `messages`: chat messages, or prompt and completion, as other tools write them.

A conversation with more than one question is refused. A response without recognizable steps becomes
one step, unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.response_text import parse_plain_response
from tuneloop.traces.schema import build_trace
from tuneloop.validation import shorten

_THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


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
        system, prompt, response = _turns(rest.pop(name), name, place)
    else:
        system, prompt = None, rest.pop("prompt", None)
        response = rest.pop("completion", rest.pop("response", None))
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise DataError(
            f"{place}: found the keys {shorten(sorted(value))}, expected messages, or prompt and"
            " completion with text in them; fix the line"
        )
    if system is not None:
        rest["system"] = system
    steps, answer = _steps_and_answer(response)
    return build_trace(prompt, steps, answer, meta=rest or None)


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
}


def _turns(messages: Any, name: str, place: str) -> tuple[str | None, str, str]:
    said: list[tuple[str, str]] = []
    for message in messages if isinstance(messages, list) else []:
        found = message if isinstance(message, dict) else {}
        role = _ROLES.get(str(found.get("role", found.get("from"))))
        content = found.get("content", found.get("value"))
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
    return system, said[0][1], said[1][1]


def _steps_and_answer(response: str) -> tuple[list[str], str]:
    """Split a response into steps and answer.

    The forms tried in order are tuneloop's own, a `<think>` block, and the whole text as one step.
    """
    parsed = parse_plain_response(response)
    if parsed.answer is not None and parsed.steps:
        return list(parsed.steps), parsed.answer
    if found := _THINK.fullmatch(response):
        thought, answer = found[1].strip(), found[2].strip()
        if thought and answer:
            return [thought], answer
    return [response], parsed.answer or response
