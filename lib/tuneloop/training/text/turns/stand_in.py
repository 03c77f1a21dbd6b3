"""Stand-ins of conversations: the same structure, with a word of its own for every text.

A stand-in shows how many control tokens a chat template writes by itself, and which texts it
writes at all.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tuneloop.training.text.turns.messages import Messages
from tuneloop.training.thinking_text import map_parts

_PLAIN = re.compile(r"[A-Za-z0-9_ .,-]*")
"""Texts of a tool's definition that stay as they are, because templates compare them."""


class Word(NamedTuple):
    """A word of a stand-in, and what it stands for."""

    text: str
    message: int | None
    """Number of the message; None for the definition of a tool."""
    what: str
    """The part that it stands for: system, content, reasoning, call or tool."""


class StandIn(NamedTuple):
    """The stand-in of a conversation."""

    messages: Messages
    tools: list[Any]
    words: tuple[Word, ...]


def stand_in(messages: Messages, tools: list[Any]) -> StandIn:
    """Build the stand-in of a conversation, from the messages and tools that templates read."""
    maker = _Maker()
    found = [maker.message(number, each) for number, each in enumerate(messages)]
    definitions = [maker.tool(each) for each in tools]
    return StandIn(found, definitions, tuple(maker.words))


class _Maker:
    """Numbers the words of one stand-in."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self._ids: dict[str, str] = {}

    def message(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        role = message["role"]
        found = dict(message)
        what = role if role == "system" else "content"
        if role == "assistant":
            found["content"] = map_parts(
                message["content"],
                lambda text, thinks: self._word(text, number, "reasoning" if thinks else what),
            )
        else:
            found["content"] = self._word(message["content"], number, what)
        if "reasoning_content" in message:
            found["reasoning_content"] = self._word(
                message["reasoning_content"], number, "reasoning"
            )
        if "tool_calls" in message:
            found["tool_calls"] = [self._call(number, each) for each in message["tool_calls"]]
        if "tool_call_id" in message:
            found["tool_call_id"] = self._id(message["tool_call_id"])
        if "name" in message:
            found["name"] = "x"
        return found

    def _call(self, number: int, call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        name = self._word(function["name"], number, "call")
        arguments = self._value(function["arguments"], number)
        return call | {
            "id": self._id(call["id"]),
            "function": {"name": name, "arguments": arguments},
        }

    def _value(self, value: Any, number: int) -> Any:
        if isinstance(value, str):
            return self._word(value, number, "call")
        if isinstance(value, dict):
            return {
                key if _PLAIN.fullmatch(key) else f"k{at}": self._value(each, number)
                for at, (key, each) in enumerate(value.items())
            }
        if isinstance(value, list):
            return [self._value(each, number) for each in value]
        if isinstance(value, bool) or value is None:
            return value
        return 1

    def tool(self, tool: Any) -> Any:
        if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
            return _plain(tool)
        function = {key: _plain(value) for key, value in tool["function"].items()}
        for key in ("name", "description"):
            if isinstance(function.get(key), str):
                function[key] = self._word(function[key], None, "tool")
        return {key: _plain(value) for key, value in tool.items()} | {"function": function}

    def _word(self, text: str, message: int | None, what: str) -> str:
        if not text.strip():
            return text  # templates ask whether a text is empty
        word = f"x{len(self.words)}x"
        self.words.append(Word(word, message, what))
        return word

    def _id(self, given: str) -> str:
        return self._ids.setdefault(given, f"call{len(self._ids):05d}")


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) or not value.strip() else "x"
    if isinstance(value, dict):
        return {
            key if _PLAIN.fullmatch(key) else f"k{at}": _plain(each)
            for at, (key, each) in enumerate(value.items())
        }
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
