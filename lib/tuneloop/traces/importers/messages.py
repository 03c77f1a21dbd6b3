"""Import format `messages`: conversations in the form of OpenAI's chat API.

`{"messages": [{"role": "user", "content": "6 * 7 ="}, {"role": "assistant", "content": "42"}]}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import Chat, as_list, chat_message, whole_trace
from tuneloop.traces.importers.prompt_completion import trace_of_pair
from tuneloop.traces.importers.sharegpt import trace_of_sharegpt
from tuneloop.validation import shorten


def trace_of_messages(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a record with `messages`, and optionally `tools` or `functions`.

    Records with `conversations`, and with `prompt` and `completion`, are read as by the formats
    `sharegpt` and `prompt_completion`, which have no key of the same name.

    Args:
        value: the record.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: the record has none of these keys, or holds what a trace cannot.
    """
    if (whole := whole_trace(value, place)) is not None:
        return whole
    if value.get("messages") is None:
        if value.get("conversations") is not None:
            return trace_of_sharegpt(value, place)
        if value.get("prompt") is not None:
            return trace_of_pair(value, place)
        raise DataError(
            f"{place}: found the keys {shorten(sorted(value))}, expected messages, conversations,"
            " or prompt and completion; fix the line, or name a column with --columns messages=NAME"
        )
    chat = Chat(value, place)
    if isinstance(system := chat.rest.get("system"), str):
        chat.set_system(system, place)
        del chat.rest["system"]
    chat.add(as_list(chat.take("messages"), "messages", place), chat_message)
    tools = as_list(chat.take("tools"), "tools", place)
    return chat.trace([*tools, *as_list(chat.take("functions"), "functions", place)])
