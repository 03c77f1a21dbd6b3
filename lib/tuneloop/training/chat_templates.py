"""The table of chat templates. A model spec names the template of its model family.

A template renders a generation prompt (the text before the model's first token) and a closed
response (the rest of the model's turn). Training text is the two concatenated, so generation
always starts from a prefix of the training text. Content cannot open or close a turn in any
template, because `neutralise_control_tokens` covers the turn marks of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuneloop.training.renderers import (
    neutralise_control_tokens,
    render_closed_response,
    render_generation_prompt,
)
from tuneloop.validation import look_up


@dataclass(frozen=True)
class ChatTemplate:
    """How the models of one family write turns."""

    turn_marks: tuple[str, str]
    """The marks that open and close a turn; each is one token of the family's tokenizers."""
    render_generation_prompt: Callable[[str, str | None], str]
    """(prompt, system instruction) -> text before the model's first token, without `<bos>`."""
    render_closed_response: Callable[[str], str]
    """Response -> the model's turn with its closing mark: the text that the loss covers."""
    has_system_role: bool
    """Whether a system instruction has its own turn; if not, it is part of the user turn."""

    def render_training_text(self, prompt: str, response: str, system: str | None = None) -> str:
        """Render a whole training example, without `<bos>`."""
        return self.render_generation_prompt(prompt, system) + self.render_closed_response(response)

    def turns(self, system: str | None) -> tuple[str, ...]:
        """Return the roles of an example's turns, in order."""
        return ("system", "user", "model") if system and self.has_system_role else ("user", "model")

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
            roles.append(content.partition("\n")[0])
        return tuple(roles)


def _gemma4_turn(role: str, content: str) -> str:
    return f"<|turn>{role}\n{neutralise_control_tokens(content)}<turn|>\n"


def _gemma4_generation_prompt(prompt: str, system: str | None) -> str:
    before = _gemma4_turn("system", system) if system else ""
    return f"{before}{_gemma4_turn('user', prompt)}<|turn>model\n"


def _gemma4_closed_response(response: str) -> str:
    return f"{neutralise_control_tokens(response)}<turn|>"


_GEMMA_2_AND_3 = ChatTemplate(
    turn_marks=("<start_of_turn>", "<end_of_turn>"),
    render_generation_prompt=render_generation_prompt,
    render_closed_response=render_closed_response,
    has_system_role=False,
)

CHAT_TEMPLATES = {
    "gemma2": _GEMMA_2_AND_3,
    "gemma3": _GEMMA_2_AND_3,
    "gemma4": ChatTemplate(
        turn_marks=("<|turn>", "<turn|>"),
        render_generation_prompt=_gemma4_generation_prompt,
        render_closed_response=_gemma4_closed_response,
        has_system_role=True,
    ),
}
"""Chat templates by name; `chat_template` of a model spec is one of these names."""
DEFAULT_CHAT_TEMPLATE = CHAT_TEMPLATES["gemma3"]


def chat_template_named(name: str) -> ChatTemplate:
    """Look up a chat template by name.

    Raises:
        SpecError: the name is unknown; the message lists the known names.
    """
    return look_up(CHAT_TEMPLATES, name, "chat template")
