"""The table of built-in chat templates, for models that bring no template of their own.

A template renders a generation prompt (the text before the model's first token) and a closed
response (the rest of the model's turn). Training text is the two concatenated, so generation
always starts from a prefix of the training text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from tuneloop.training.control_tokens import ControlTokens
from tuneloop.training.conversation import Conversation
from tuneloop.training.renderers import (
    CONTROL_TOKENS,
    apply_system_instruction,
    render_raw_gemma_turn,
)
from tuneloop.training.thinking_text import visible_text
from tuneloop.validation import look_up

Role = Literal["system", "user", "assistant"]


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class ChatTemplate:
    """How the models of one family write turns."""

    turn_marks: tuple[str, str]
    """The marks that open and close a turn; each is one token of the family's tokenizers."""
    render_turn: Callable[[str, str], str]
    """(role as the model writes it, content that spells no control token) -> closed turn."""
    bos: str | None
    """Token that begins every conversation; None if the family has none."""
    has_system_role: bool
    """Whether a system instruction has its own turn; if not, it is part of the user turn."""
    assistant_role: str = "assistant"
    """Role of the model's turns, as the model writes it."""
    separator: str = "\n"
    """Text between two turns."""
    header_end: str = "\n"
    """Text between the role and the content."""

    def render(self, turns: Sequence[Turn], *, open_turn: bool) -> str:
        """Render a conversation whose content spells no control token, without `bos`.

        Args:
            turns: the turns. A system turn comes first, if the family has a system role.
            open_turn: whether to add the beginning of the model's turn.
        """
        closed = [self.render_turn(self.role_name(turn.role), turn.content) for turn in turns]
        if open_turn:
            opened = self.render_turn(self.assistant_role, "")
            closed.append(opened.removesuffix(self.turn_marks[1]))
        return self.separator.join(closed)

    def role_name(self, role: Role) -> str:
        """Return a role as the model writes it."""
        return self.assistant_role if role == "assistant" else role

    def render_generation_prompt(self, prompt: str, system: str | None = None) -> str:
        """Render the text before the model's first token, without `bos`."""
        turns = [Turn("user", prompt)]
        if system and self.has_system_role:
            turns.insert(0, Turn("system", system))
        elif system:
            turns = [Turn("user", apply_system_instruction(prompt, system))]
        control = _control_tokens(self.turn_marks)
        safe = [Turn(role, control.neutralise(content)) for role, content in turns]
        return self.render(safe, open_turn=True)

    def turns_of(self, conversation: Conversation, instruction: str | None) -> Iterator[Turn]:
        """Yield the turns of a conversation without tools, whose content is made harmless.

        The instruction of the run comes before the conversation's own system text. Without a system
        role, both are the beginning of the first user turn.
        """
        safe = _control_tokens(self.turn_marks).neutralise
        system = "\n\n".join(text for text in (instruction, conversation.system or None) if text)
        if system and self.has_system_role:
            yield Turn("system", safe(system))
            system = ""
        for message in conversation.messages:
            if message.role == "user":
                content, system = apply_system_instruction(message.content, system), ""
                yield Turn("user", safe(content))
            else:
                yield Turn("assistant", visible_text(conversation, message, safe))

    def render_closed_response(self, response: str) -> str:
        """Render the model's turn with its closing mark: the text that the loss covers."""
        return _control_tokens(self.turn_marks).neutralise(response) + self.turn_marks[1]

    def render_training_text(self, prompt: str, response: str, system: str | None = None) -> str:
        """Render a whole training example, without `bos`."""
        return self.render_generation_prompt(prompt, system) + self.render_closed_response(response)

    def turns(self, system: str | None) -> tuple[str, ...]:
        """Return the roles of an example's turns, in order."""
        roles = ("user", self.assistant_role)
        return ("system", *roles) if system and self.has_system_role else roles

    def roles_in(self, text: str) -> tuple[str, ...] | None:
        """Read the roles of the turns in a rendered text.

        Returns:
            The roles in order. None if a turn is not closed before the next one opens, or if
            anything but line feeds separates two turns.
        """
        opening, closing = self.turn_marks
        roles = []
        for part in text.split(opening)[1:]:
            content, closed, after = part.partition(closing)
            if not closed or closing in after or after.strip("\n"):
                return None
            roles.append(content.partition(self.header_end)[0])
        return tuple(roles)


@cache
def _control_tokens(turn_marks: tuple[str, str]) -> ControlTokens:
    """Return the tokens that content must not spell where no tokenizer lists them."""
    return ControlTokens([*CONTROL_TOKENS, *turn_marks])


def _gemma4_turn(role: str, content: str) -> str:
    return f"<|turn>{role}\n{content}<turn|>"


def _chatml_turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>"


def _llama3_turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"


_GEMMA_2_AND_3 = ChatTemplate(
    turn_marks=("<start_of_turn>", "<end_of_turn>"),
    render_turn=render_raw_gemma_turn,
    bos="<bos>",
    has_system_role=False,
    assistant_role="model",
)
_CHATML = ChatTemplate(
    turn_marks=("<|im_start|>", "<|im_end|>"),
    render_turn=_chatml_turn,
    bos=None,
    has_system_role=True,
)

CHAT_TEMPLATES: Mapping[str, ChatTemplate] = {
    "gemma2": _GEMMA_2_AND_3,
    "gemma3": _GEMMA_2_AND_3,
    "gemma4": ChatTemplate(
        turn_marks=("<|turn>", "<turn|>"),
        render_turn=_gemma4_turn,
        bos="<bos>",
        has_system_role=True,
        assistant_role="model",
    ),
    "qwen2": _CHATML,
    "qwen3": _CHATML,
    "llama3": ChatTemplate(
        turn_marks=("<|start_header_id|>", "<|eot_id|>"),
        render_turn=_llama3_turn,
        bos="<|begin_of_text|>",
        has_system_role=True,
        separator="",
        header_end="<|end_header_id|>\n\n",
    ),
}
"""Chat templates by model family."""
DEFAULT_CHAT_TEMPLATE = CHAT_TEMPLATES["gemma3"]


def chat_template_named(name: str) -> ChatTemplate:
    """Look up a chat template by name.

    Raises:
        SpecError: the name is unknown; the message lists the known names.
    """
    return look_up(CHAT_TEMPLATES, name, "chat template")
