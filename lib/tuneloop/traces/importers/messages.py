"""Import format `messages`: chat messages, or prompt and completion, as other tools write them.

Nothing is guessed. A conversation with more than one question is refused, and text without steps
becomes one step as it is.
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
    """Read the trace on one line of another tool's training file.

    Args:
        value: has `messages` (or ShareGPT's `conversations`) or `prompt` and `completion` (or
            `response`); other keys go to meta, where a dataset's filters find them.
        place: `FILE:line`.

    Raises:
        DataError: it is neither, or holds more than a question and its answer.
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
            " completion with text in them; mend the line"
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
                f"{place}: {name} holds {shorten(message)}, expected a role of system, user or"
                " assistant and content that is text; mend the line"
            )
        said.append((role, content))
    roles = [role for role, _ in said]
    system = said.pop(0)[1] if roles[:1] == ["system"] else None
    if [role for role, _ in said] != ["user", "assistant"]:
        raise DataError(
            f"{place}: {name} has the roles {roles}, expected one question and its answer; split"
            " conversations of more turns before the import"
        )
    return system, said[0][1], said[1][1]


def _steps_and_answer(response: str) -> tuple[list[str], str]:
    """Steps and answer: ours, or those of a `<think>` block, or the text as one step."""
    parsed = parse_plain_response(response)
    if parsed.answer is not None and parsed.steps:
        return list(parsed.steps), parsed.answer
    if found := _THINK.fullmatch(response):
        thought, answer = found[1].strip(), found[2].strip()
        if thought and answer:
            return [thought], answer
    return [response], parsed.answer or response
