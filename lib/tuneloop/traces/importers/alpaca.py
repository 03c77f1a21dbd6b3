"""Import format `alpaca`: an instruction, an optional input and the output.

`{"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import Chat, as_list, chat_message
from tuneloop.validation import shorten


def trace_of_alpaca(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a record with `instruction`, `input`, `output`, and optionally `system`, `history`.

    Args:
        value: the record. The prompt is the instruction and, after an empty line, the input if it
            is not empty. `history` is a list of pairs of an earlier prompt and its answer.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: the record has no instruction or no output, or holds what a trace cannot.
    """
    chat = Chat(value, place)
    if chat.rest.get("system"):
        chat.set_system(chat.take_text("system"), place)
    for pair in as_list(chat.take("history"), "history", place):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"{place}: history has {shorten(pair)}, expected pairs of a prompt and its answer;"
                " fix the line"
            )
        chat.add(_turn(*pair), chat_message)
    asked = chat.take_text("instruction")
    given = chat.take_text("input") if chat.rest.get("input") else chat.rest.pop("input", "")
    prompt = "\n\n".join(part for part in (asked, given) if part)
    chat.add(_turn(prompt, chat.take_text("output")), chat_message)
    return chat.trace()


def _turn(prompt: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
