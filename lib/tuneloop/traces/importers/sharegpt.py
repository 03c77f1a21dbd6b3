"""Import format `sharegpt`: `conversations` of `from` and `value`, as ShareGPT and LLaMA-Factory.

`{"conversations": [{"from": "human", "value": "6 * 7 ="}, {"from": "gpt", "value": "42"}]}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import (
    Chat,
    Message,
    as_list,
    call_of,
    chat_message,
    parse_text,
    without_null,
)
from tuneloop.validation import shorten

_CALL, _RESULT = "function_call", "observation"


def trace_of_sharegpt(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a record with `conversations`, and optionally `system` and `tools`.

    Args:
        value: the record; `tools` is a list, or JSON text of one.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: the record has no conversations, or holds what a trace cannot.
    """
    if value.get("conversations") is None:
        raise DataError(
            f"{place}: found the keys {shorten(sorted(value))}, expected conversations; fix the"
            " line, or name a column with --columns conversations=NAME"
        )
    chat = Chat(value, place)
    listed = as_list(chat.take("conversations"), "conversations", place)
    tools = as_list(chat.take("tools"), "tools", place)
    if chat.rest.get("system"):
        chat.set_system(chat.take_text("system"), place)
    chat.add(listed, _message)
    return chat.trace(tools)


def _message(value: Any, place: str) -> tuple[Message, dict[str, Any]]:
    rest = without_null(value) if isinstance(value, dict) else {}
    if "from" not in rest:  # some files have OpenAI's keys under this name
        return chat_message(value, place)
    source, text = rest.pop("from"), rest.pop("value", None)
    if source == _CALL:
        return {"role": "assistant", "content": "", "tool_calls": _calls(text, place)}, rest
    if source == _RESULT:
        source = "tool"
    return chat_message({**rest, "role": source, "content": text}, place)


def _calls(text: Any, place: str) -> list[Message]:
    value = parse_text(text, place) if isinstance(text, str) else text
    try:
        return [call_of(each) for each in (value if isinstance(value, list) else [value])]
    except ValueError as e:
        raise DataError(f"{place}: {e}; fix the line") from e
