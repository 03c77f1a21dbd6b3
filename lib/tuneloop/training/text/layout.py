"""Learn from a chat template how it lays out the model's turn.

The template renders a small conversation, and the words of the conversation are looked for in the
result. So templates need no description besides their source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tuneloop.errors import DataError, SpecError
from tuneloop.training.chat_templates import CHAT_TEMPLATES, ChatTemplate, Turn
from tuneloop.training.text.tokenizers import Tokenizer

Thinking = Literal["steps", "plain"]
"""Where the reasoning steps of a response go: into the model's thinking block, or into its text."""

Message = Mapping[str, Any]
"""A turn as chat templates expect it: `role` and `content`; for an answer also `reasoning_content`
and `tool_calls`; for the result of a tool also `tool_call_id` and `name`."""
Tool = Mapping[str, Any]
"""The definition of a tool as chat templates expect it."""

QUESTION, THOUGHT, REPLY, SYSTEM = "Question", "Thought", "Reply", "System"


class Template(Protocol):
    """A chat template, the model's own or a built-in one."""

    @property
    def place(self) -> str:
        """Location of the template, for error messages."""

    @property
    def source(self) -> str:
        """Text that determines the template's output."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        thinking: bool,
        tools: Sequence[Tool] = (),
    ) -> str:
        """Render a conversation whose content spells no control token; raises DataError."""


class BuiltinTemplate:
    """A row of `CHAT_TEMPLATES`, for models that bring no template."""

    def __init__(self, name: str, template: ChatTemplate, bos: str) -> None:
        """Name a row; `bos` is put before every conversation."""
        self.place = f"built-in chat template {name}"
        self.source = f"built-in {name} {bos}"
        self._template, self._bos = template, bos

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        thinking: bool,
        tools: Sequence[Tool] = (),
    ) -> str:
        """Render a conversation; these templates know neither thinking nor tools."""
        if tools or any(each["role"] == "tool" or "tool_calls" in each for each in messages):
            raise DataError(
                f"{self.place}: writes no tools and no tool calls, expected a conversation of"
                " texts; use a model whose own chat template writes tools"
            )
        if messages[0]["role"] == "system" and not self._template.has_system_role:
            raise DataError(f"{self.place}: has no system role, expected user and assistant turns")
        turns = [Turn(each["role"], each["content"]) for each in messages]
        return self._bos + self._template.render(turns, open_turn=generation_prompt)


def builtin_template(tokenizer: Tokenizer, place: str) -> BuiltinTemplate:
    """Choose the built-in template whose turn marks the tokenizer has.

    Raises:
        DataError: the tokenizer has none of them.
    """
    added = frozenset(tokenizer.added_tokens)
    for name, row in CHAT_TEMPLATES.items():
        if added.issuperset(row.turn_marks):
            return BuiltinTemplate(name, row, row.bos if row.bos in added else "")
    marks = ", ".join(sorted({row.turn_marks[0] for row in CHAT_TEMPLATES.values()}))
    raise DataError(
        f"{place}: the model has no chat template, and its tokenizer has none of the turn marks"
        f" {marks}, expected one of the two; put a chat_template.jinja into the model's folder"
    )


@dataclass(frozen=True)
class Layout:
    """How a template writes a system instruction and the model's turn."""

    has_system_role: bool
    """Whether a system instruction has its own turn; if not, it is part of the first user turn."""
    lead: str
    """Text between the generation prompt and the content: white space, or the mark that opens the
    thinking block."""
    middle: str
    """Text between reasoning and answer; empty if they are not written apart."""
    tail: str
    """Text after the content."""


def learn_layout(template: Template, thinking: Thinking) -> Layout:
    """Render a small conversation and find its parts.

    Raises:
        DataError: the template fails, has no generation prompt, or renders training text that does
            not begin with it.
        SpecError: the template does not know thinking, and `thinking` is `steps`.
    """
    thinks = thinking == "steps"
    user: dict[str, Any] = {"role": "user", "content": QUESTION}
    reply: dict[str, Any] = {"role": "assistant", "content": REPLY}
    if thinks:
        reply["reasoning_content"] = THOUGHT
    prompt = template.render([user], generation_prompt=True, thinking=thinks)
    whole = template.render([user, reply], generation_prompt=False, thinking=thinks)
    if QUESTION not in prompt:
        raise DataError(
            f"{template.place}: the chat template drops the user's text, expected a turn for it;"
            " get the model's chat template again"
        )
    if not whole.startswith(prompt):
        raise DataError(
            f"{template.place}: training text does not begin with the generation prompt"
            f" {prompt[-40:]!r}; set train.thinking to {'plain' if thinks else 'steps'} if the"
            " model thinks before it answers, or use another model"
        )
    rest = whole[len(prompt) :]
    has_system_role = _has_system_role(template, user, thinks)
    if thinks:
        return _thinking_layout(template, rest, has_system_role)
    lead, found, tail = rest.partition(REPLY)
    if not found or lead.strip():
        raise DataError(
            f"{template.place}: {(lead or rest)[:40]!r} follows the generation prompt, expected"
            " the response; the template lacks add_generation_prompt, or the model always thinks"
            " (then set train.thinking to steps)"
        )
    return Layout(has_system_role, lead, "", tail)


def _thinking_layout(template: Template, rest: str, has_system_role: bool) -> Layout:
    lead, _, after = rest.partition(THOUGHT)
    middle, _, tail = after.partition(REPLY)
    if not middle.strip():
        raise SpecError(
            f"train.thinking: is steps, but {template.place} does not write reasoning apart from"
            " the answer; set it to plain, or use a model that thinks"
        )
    return Layout(has_system_role, lead, middle, tail)


def _has_system_role(template: Template, user: Message, thinks: bool) -> bool:
    """Return whether the template writes a system message; some refuse it, others drop it."""
    messages = [{"role": "system", "content": SYSTEM}, user]
    try:
        text = template.render(messages, generation_prompt=True, thinking=thinks)
    except DataError:
        return False
    return SYSTEM in text.partition(QUESTION)[0]
