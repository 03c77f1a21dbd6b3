"""The table of recipes: how a trace becomes a prompt and a response.

A dataset's manifest names the recipe of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from tuneloop.datasets.schema import TraceRow
from tuneloop.traces.response_text import ParsedResponse, render_response
from tuneloop.traces.schema import CHAT_VERSION
from tuneloop.training.chat_drafts import Context, context_of, is_bare, split_turn
from tuneloop.training.schema import Refused
from tuneloop.training.thinking_text import (
    parse_chat_response,
    parse_numbered_response,
    render_chat_response,
)
from tuneloop.validation import look_up

CHAT = "chat"
"""Key in a trace's meta; if its value is true, `trace_or_chat_v1` answers without reasoning."""
CORRECTION = "correction"
"""Key in a trace's meta that holds the corrected trace for the recipe `critique_v1`."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """The content of a training example, before its response is rendered."""

    prompt: str
    """User text, instruction included."""
    steps: Sequence[str]
    """Contents of the reasoning steps, in order."""
    answer: str
    """Final answer; empty if a conversation ends with calls of tools."""
    context: Context | None = None
    """The rest of a conversation; None if prompt and response are all of it."""
    is_bare: bool = False
    """Whether the response is the answer alone, whatever the recipe writes around it."""


@dataclass(frozen=True)
class Recipe:
    """How a trace becomes text, and how generated text becomes steps and an answer."""

    draft: Callable[[TraceRow, str | None], Draft | Refused]
    """(trace, dataset instruction) -> draft of the example, or the reason to exclude the trace."""
    render_prompt: Callable[[str, str | None], str]
    """(eval prompt, dataset instruction) -> user text."""
    render_response: Callable[[Sequence[str], str], str]
    """(steps in order, answer) -> response that the model should give."""
    parse_response: Callable[[str], ParsedResponse] = parse_numbered_response
    """Text from `ChatFormat.decode_response` -> steps and answer."""
    is_chat: bool = False
    """Whether a response is that of a chat: reasoning in a thinking block, then the bare answer,
    which nothing marks. Otherwise reasoning is numbered steps, and `Answer:` marks the answer."""

    def is_bare(self, row: TraceRow) -> bool:
        """Return whether training on a trace teaches to respond with the answer alone.

        The recipe of chats reads such a response like any other.
        """
        draft = self.draft(row, None)
        if self.is_chat or isinstance(draft, Refused):
            return False
        return draft.is_bare or self.render_response(draft.steps, draft.answer) == draft.answer


def _prompt_with_instruction(prompt: str, instruction: str | None) -> str:
    return f"{prompt}\n\n{instruction}" if instruction else prompt


def _draft_trace(row: TraceRow, instruction: str | None) -> Draft:
    if row.trace_version == CHAT_VERSION:
        return _draft_chat(row, instruction)
    prompt = f"{row.prompt}\n\n{instruction}" if instruction else row.prompt
    return Draft(prompt, [step.content for step in row.steps], row.final_answer)


def _draft_chat(row: TraceRow, instruction: str | None) -> Draft:
    return Draft(
        _prompt_with_instruction(row.prompt, instruction),
        [step.content for step in split_turn(row)[1]],
        row.final_answer,
        context_of(row, keeps_reasoning=True),
        is_bare(row),
    )


def _draft_answer(row: TraceRow, instruction: str | None) -> Draft:
    if row.trace_version == CHAT_VERSION:
        context = context_of(row, keeps_reasoning=False)
        return Draft(
            _prompt_with_instruction(row.prompt, instruction), (), row.final_answer, context
        )
    return Draft(_prompt_with_instruction(row.prompt, instruction), (), row.final_answer)


def _draft_trace_or_chat(row: TraceRow, instruction: str | None) -> Draft:
    if bytes((row.meta or {}).get(CHAT, b"")) == b"true":
        return _draft_answer(row, instruction)
    return _draft_trace(row, instruction)


def _render_response_or_chat(steps: Sequence[str], answer: str) -> str:
    return render_response(steps, answer) if steps else answer


class _Correction(msgspec.Struct, frozen=True):
    """The JSON object expected in `meta.correction`; the steps are in order."""

    final_answer: Annotated[str, msgspec.Meta(min_length=1)]
    steps: list[str] = []


_correction_decoder = msgspec.json.Decoder(_Correction)


def _draft_critique(row: TraceRow, instruction: str | None) -> Draft | Refused:
    raw = (row.meta or {}).get(CORRECTION)
    if raw is None or bytes(raw) == b"null":
        return Refused("filtered", f"meta.{CORRECTION} is missing, so there is no target response")
    try:
        correction = _correction_decoder.decode(raw)
    except msgspec.DecodeError as e:
        return Refused(
            "invalid", f"meta.{CORRECTION} is not {{final_answer, steps: [text, ...]}}: {e}"
        )
    context = None
    if row.trace_version == CHAT_VERSION:
        if split_turn(row)[0]:
            return Refused("filtered", "its turn calls tools, which critique_v1 has no form for")
        context = context_of(row, keeps_reasoning=True)
    flawed = render_response(row.step_contents, row.final_answer)
    prompt = _prompt_with_instruction(f"{row.prompt}\n\n{flawed}", instruction)
    return Draft(prompt, correction.steps, correction.final_answer, context)


RECIPES = {
    # Prompt -> steps and answer.
    "trace_sft_v1": Recipe(_draft_trace, _prompt_with_instruction, render_response),
    # Prompt -> thinking block with the steps, and the bare answer.
    "chat_v1": Recipe(
        _draft_trace,
        _prompt_with_instruction,
        render_chat_response,
        parse_chat_response,
        is_chat=True,
    ),
    # Prompt -> answer alone.
    "answer_only_v1": Recipe(_draft_answer, _prompt_with_instruction, render_response),
    # Prompt -> steps and answer, or the bare answer of a chat. A model that is tuned on a task
    # forgets less if ordinary replies are mixed in.
    "trace_or_chat_v1": Recipe(
        _draft_trace_or_chat, _prompt_with_instruction, _render_response_or_chat
    ),
    # Prompt and flawed trace -> corrected trace. Eval prompts are used as they are.
    "critique_v1": Recipe(_draft_critique, _prompt_with_instruction, render_response),
}
"""Recipes by the name that dataset manifests use."""


def recipe_named(name: str) -> Recipe:
    """Look up a recipe by name.

    Raises:
        SpecError: the name is unknown; the message lists the known names.
    """
    return look_up(RECIPES, name, "recipe")
