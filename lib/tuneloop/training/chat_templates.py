r"""Chat families: how a model family writes turns. A row each; the model's spec names one.

One rule: a family renders what stands before the model's first token, and what the model says until
it stops; training text is the one behind the other, so generation always starts from a prefix of
it. No content can open or close a turn of any family: `neutralise_control_tokens` knows the marks
of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuneloop.errors import SpecError
from tuneloop.training.renderers import (
    neutralise_control_tokens,
    render_closed_response,
    render_generation_prompt,
)


@dataclass(frozen=True)
class ChatFamily:
    """The turns of one model family."""

    turn_marks: tuple[str, str]
    """What opens and what closes a turn; each is one token of the family's tokenizers."""
    render_generation_prompt: Callable[[str, str | None], str]
    """(prompt, system instruction) -> all before the model's first token, `<bos>` apart."""
    render_closed_response: Callable[[str], str]
    """Response -> what the model says and then stops: all that the loss covers."""
    has_system_role: bool
    """Whether a system instruction is a turn of its own, or part of the user's."""

    def render_training_text(self, prompt: str, response: str, system: str | None = None) -> str:
        """A whole example, `<bos>` apart."""
        return self.render_generation_prompt(prompt, system) + self.render_closed_response(response)

    def turns(self, system: str | None) -> tuple[str, ...]:
        """The roles of an example's turns, in order."""
        return ("system", "user", "model") if system and self.has_system_role else ("user", "model")

    def roles_in(self, text: str) -> tuple[str, ...] | None:
        """The roles of the turns that a text holds; None if they are not opened and closed in turn.

        Between a turn's end and the next one's beginning only a line feed may stand.
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


_GEMMA_2_AND_3 = ChatFamily(
    turn_marks=("<start_of_turn>", "<end_of_turn>"),
    render_generation_prompt=render_generation_prompt,
    render_closed_response=render_closed_response,
    has_system_role=False,
)

FAMILIES = {
    "gemma2": _GEMMA_2_AND_3,
    "gemma3": _GEMMA_2_AND_3,
    "gemma4": ChatFamily(
        turn_marks=("<|turn>", "<turn|>"),
        render_generation_prompt=_gemma4_generation_prompt,
        render_closed_response=_gemma4_closed_response,
        has_system_role=True,
    ),
}
"""Every family by the `kind` of a model spec."""
DEFAULT_FAMILY = "gemma3"


def family_named(name: str) -> ChatFamily:
    """Look a family up; SpecError lists those that exist."""
    try:
        return FAMILIES[name]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise SpecError(f"model family {name!r} is unknown, expected one of: {known}") from None
