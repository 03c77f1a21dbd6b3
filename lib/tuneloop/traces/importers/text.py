"""Text and reasoning of one message: content parts, fields of reasoning, and blocks of `<think>`.

Nothing is guessed. A text that begins with a block, or that ends one which the prompt has opened,
is split; a block that is not closed, is in the middle of a text or occurs twice is an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tuneloop.traces.response_text import parse_plain_response, render_response
from tuneloop.validation import shorten

BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Opening and closing mark of a block of reasoning, as models write it."""
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
"""Marks around the answer after `<|end_of_thought|>`."""
FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message with its reasoning."""
CONTENT_FIELDS = "content_fields"
"""Key of a message for what its text parts have besides text, such as `cache_control`."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING_PARTS = {"thinking": "thinking", "reasoning": "text"}
"""Type of a content part with reasoning -> its key with the text."""


class Said(NamedTuple):
    """What one message says."""

    thoughts: tuple[str, ...]
    """Pieces of reasoning, each a step; empty without reasoning."""
    text: str


def answer_of(text: str) -> Said:
    """Split the text of an assistant into reasoning and answer.

    Raises:
        ValueError: a block of reasoning is not closed, in the middle of the text, or not the only
            one. The text is what was found and what was expected.
    """
    if text.startswith("Reasoning:\n1. "):
        parsed = parse_plain_response(text)
        if parsed.answer and render_response(parsed.steps, parsed.answer) == text:
            return Said(parsed.steps, parsed.answer)
    for opening, closing in BLOCKS:
        if closing in text or text.lstrip().startswith(opening):
            return _split(text, opening, closing)
    return Said((), text)


def _split(text: str, opening: str, closing: str) -> Said:
    before, found, rest = text.partition(closing)
    if not found:
        raise ValueError(f"opens {opening} and never closes it, expected {closing}")
    lead, opened, thought = before.partition(opening)
    if opened and lead.strip():
        raise ValueError(f"has text before {opening}, expected the block first")
    if closing in rest or opening in thought:
        raise ValueError(f"has more than one {opening} or {closing}, expected one block")
    answer = rest.strip()
    start, end = _SOLUTION
    if closing == BLOCKS[-1][1] and answer.startswith(start) and answer.endswith(end):
        answer = answer[len(start) : -len(end)].strip()
    thought = (thought if opened else before).strip()
    return Said((thought,) if thought else (), answer)


def said_by(message: dict[str, Any], *, is_assistant: bool) -> Said:
    """Take the content and the reasoning out of a message.

    Args:
        message: the message; the keys that are read are removed from it.
        is_assistant: whether the message is the model's, which alone can have reasoning.

    Raises:
        ValueError: the content is no text, or the reasoning is not what `answer_of` accepts.
    """
    fields_of_parts: dict[str, Any] = {}
    text, thoughts = _content(message.pop("content", None), fields_of_parts)
    if fields_of_parts:
        if CONTENT_FIELDS in message:
            raise ValueError(f"has the key {CONTENT_FIELDS}, expected another name; rename it")
        message[CONTENT_FIELDS] = fields_of_parts
    if thoughts and not is_assistant:
        raise ValueError("has a part of reasoning, expected it only from the assistant")
    if not is_assistant:
        return Said((), text)
    fields = [_reasoning(message.pop(key)) for key in FIELDS if _is_reasoning(message.get(key))]
    found = answer_of(text)
    pieces: list[str] = []
    seen = {""}
    for group in (*fields, thoughts, found.thoughts):
        # Some servers send the same reasoning under two names.
        if (joined := "\n\n".join(group).strip()) not in seen:
            seen.add(joined)
            pieces += [piece for piece in group if piece.strip()]
    return Said(tuple(pieces), found.text)


def _is_reasoning(value: Any) -> bool:
    return isinstance(value, str | list)


def _reasoning(value: str | list[Any]) -> list[str]:
    """Return the reasoning of a field, which is text or a list of parts."""
    if isinstance(value, str):
        return [value]
    text, thoughts = _content_alone(value)
    return [*thoughts, text]


def _content_alone(content: list[Any]) -> tuple[str, list[str]]:
    """Return text and reasoning of parts of reasoning, which have no place for other keys."""
    fields: dict[str, Any] = {}
    found = _content(content, fields)
    if fields:
        raise ValueError(
            f"has the reasoning {shorten(content)}, expected parts with only a type and a text"
        )
    return found


def _content(content: Any, fields: dict[str, Any]) -> tuple[str, list[str]]:
    """Return text and reasoning; other keys of a text part go to `fields` by its number."""
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ValueError(f"has the content {shorten(content)}, expected text or a list of parts")
    texts, thoughts = [], []
    for number, part in enumerate(content):
        kind = str(part.get("type")) if isinstance(part, dict) else None
        values = {key: value for key, value in part.items() if value is not None} if kind else {}
        values.pop("type", None)
        if kind in _TEXT_PARTS and isinstance(values.get("text"), str):
            texts.append(values.pop("text"))
            if values:
                fields[str(number)] = values
        elif kind in _REASONING_PARTS:
            thoughts.append(_thought(values, _REASONING_PARTS[kind], part))
        else:
            raise ValueError(
                f"has the content part {shorten(part)}, expected parts of text or reasoning, the"
                " only ones that a trace holds"
            )
    return "".join(texts), thoughts


def _thought(values: dict[str, Any], key: str, part: Any) -> str:
    found = values.pop(key, None)
    values.pop("signature", None)  # a proof for the API that wrote it, of no use elsewhere
    values.pop("closed", None)
    if isinstance(found, list):
        found = _content_alone(found)[0]
    if not isinstance(found, str) or values:
        raise ValueError(f"has the content part {shorten(part)}, expected reasoning as text")
    return found
