"""Reasoning and answer as one text: a block of `<think>`, then the answer as the user sees it.

Models that were distilled from DeepSeek R1 and models of Qwen write this form. Here it has two
uses. It is what the recipe `chat_v1` trains a model to write if its chat template has no thinking
block, and it is how the answer of every model with a thinking block is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tuneloop.traces.conversation import join_reasoning_steps, split_reasoning_steps
from tuneloop.traces.response_text import (
    ParsedResponse,
    join_reasoning,
    parse_plain_response,
    split_reasoning,
)
from tuneloop.training.control_tokens import ControlTokens
from tuneloop.training.conversation import Conversation, Message

OPENING, CLOSING = "<think>", "</think>"
_MARKS = ControlTokens((OPENING, CLOSING))
_OPENED = re.compile(f"^[ \\t]*{OPENING}", re.MULTILINE)


class Thought(NamedTuple):
    """The two parts of a text."""

    reasoning: str | None
    """Text in the thinking block; None without a block."""
    answer: str | None
    """Visible text; None if there is none, for example because the block is not closed."""


def render_thinking(reasoning: str, answer: str, safe: Callable[[str], str] = str) -> str:
    """Render a closed block and the answer; `split_thinking` gives both back.

    Marks that the parts themselves contain get a WORD JOINER after their first character. The
    answer is the whole text if there is no reasoning and the answer contains no mark.

    Args:
        reasoning: text of the block; may be empty.
        answer: visible text.
        safe: changes a part so that it spells no control token of a model.
    """
    if not reasoning and OPENING not in answer and CLOSING not in answer:
        return safe(answer)
    return f"{_block(safe(_MARKS.neutralise(reasoning)))}{safe(_MARKS.neutralise(answer))}"


def render_unclosed(reasoning: str) -> str:
    """Render a block that generation did not close."""
    return f"{OPENING}\n{_MARKS.neutralise(reasoning)}"


def _block(reasoning: str) -> str:
    return f"{OPENING}\n{reasoning}\n{CLOSING}\n\n"


def map_parts(text: str, change: Callable[[str, bool], str]) -> str:
    """Change reasoning and answer of a rendered text, and leave its marks as they are.

    Args:
        text: text from `render_thinking`, with or without a block.
        change: (part, whether it is reasoning) -> new part.
    """
    before, closed, answer = text.partition(f"\n{CLOSING}\n\n")
    if not closed or not before.startswith(f"{OPENING}\n"):
        return change(text, False)
    reasoning = before.removeprefix(f"{OPENING}\n")
    return _block(change(reasoning, True)) + change(answer, False)


def split_thinking(text: str) -> Thought:
    """Split generated text into reasoning and answer.

    The last closing mark ends the reasoning, and an opening mark before it is not needed, because
    many chat templates write it themselves. After that, a line that begins with an opening mark
    starts a block that is not closed, and nothing after it is visible. Line feeds around
    reasoning and before the answer do not count.
    """
    before, closed, after = text.rpartition(CLOSING)
    opened = _OPENED.search(after)
    visible = after if opened is None else after[: opened.start()]
    if not closed and opened is None:
        return Thought(None, _visible(text))
    reasoning = before
    if not closed and opened is not None:
        reasoning = after[opened.end() :]
    elif (stripped := before.lstrip()).startswith(OPENING):
        reasoning = stripped.removeprefix(OPENING)
    reasoning = _MARKS.restore(reasoning.strip("\n"))
    return Thought(reasoning, _visible(_MARKS.restore(visible)))


def _visible(text: str) -> str | None:
    return text.lstrip("\n") if text.strip() else None


def visible_text(conversation: Conversation, message: Message, safe: Callable[[str], str]) -> str:
    """Return what a model without a thinking block writes as a message of the assistant.

    Args:
        conversation: the conversation, which says how reasoning is written.
        message: one of its messages.
        safe: changes text so that it spells no control token of the model.
    """
    reasoning = message.reasoning or ""
    if conversation.think_block:
        return render_thinking(reasoning, message.content, safe)
    return safe("\n\n".join(part for part in (reasoning, message.content) if part))


def render_chat_response(steps: Sequence[str], answer: str) -> str:
    """Render a response of the recipe `chat_v1`: the thinking block, then the bare answer."""
    return render_thinking(join_reasoning_steps(steps), answer)


def parse_chat_response(text: str) -> ParsedResponse:
    """Parse a response of the recipe `chat_v1`.

    The steps are those that the importer makes of the same reasoning: one, or several if it is too
    long for one step of a trace. The answer is the whole visible text.
    """
    reasoning, answer = split_thinking(text)
    steps = tuple(split_reasoning_steps(reasoning)) if reasoning and reasoning.strip() else ()
    return ParsedResponse(steps, answer, is_whole=answer is not None)


def split_response(response: str) -> tuple[str, str]:
    """Split a rendered response into the text of a model's thinking block and the visible text."""
    if not response.startswith(f"{OPENING}\n"):
        return split_reasoning(response)
    reasoning, answer = split_thinking(response)
    return reasoning or "", answer or ""


def parse_numbered_response(text: str) -> ParsedResponse:
    """Parse a response with numbered steps, which can be in a thinking block, and an answer."""
    if not text.startswith(OPENING):
        return parse_plain_response(text)
    reasoning, answer = split_thinking(text)
    joined = join_reasoning(reasoning or "", answer or "")
    return parse_plain_response(joined if answer else joined.removesuffix("\n\n"))
