"""Import format `prompt_completion`: a prompt and its completion, as text or as messages (TRL).

`{"prompt": "6 * 7 =", "completion": "42"}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import Chat, as_list, chat_message, whole_trace
from tuneloop.traces.importers.text import FIELDS
from tuneloop.validation import shorten

_ANSWERS = ("completion", "response")


def trace_of_pair(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a record with `prompt` and `completion` (or `response`).

    Args:
        value: the record. Reasoning may be in a key of its own; `system` is the system message and
            `tools` the definitions of tools, as a list or as JSON text of one.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: the record has no prompt or no completion, or holds what a trace cannot.
    """
    if (whole := whole_trace(value, place)) is not None:
        return whole
    chat = Chat(value, place)
    found = [key for key in _ANSWERS if key in chat.rest]
    if len(found) != 1:
        raise DataError(
            f"{place}: found the keys {shorten(sorted(value))}, expected prompt and one of"
            f" {' and '.join(_ANSWERS)}; fix the line, or name the columns with --columns"
            " prompt=NAME,completion=NAME"
        )
    prompt, answer = chat.rest.get("prompt"), chat.rest.get(found[0])
    if chat.rest.get("system"):
        chat.set_system(chat.take_text("system"), place)
    if isinstance(prompt, list):
        chat.add(chat.take("prompt"), chat_message)
    else:
        chat.add([{"role": "user", "content": chat.take_text("prompt")}], chat_message)
    if isinstance(answer, list):
        chat.add(chat.take(found[0]), chat_message)
    else:
        reasoning = {key: chat.take(key) for key in FIELDS if isinstance(chat.rest.get(key), str)}
        said = {"role": "assistant", "content": chat.take_text(found[0]), **reasoning}
        calls = {key: chat.take(key) for key in ("tool_calls", "function_call") if key in chat.rest}
        chat.add([{**said, **calls}], chat_message)
    return chat.trace(as_list(chat.take("tools"), "tools", place))
