"""The table of recipes: how a trace becomes a prompt and a response. A dataset names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from tuneloop.datasets.schema import TraceRow
from tuneloop.traces.response_text import ParsedResponse, render_response
from tuneloop.training.renderers import parse_response
from tuneloop.training.schema import Refused
from tuneloop.validation import look_up

CORRECTION = "correction"
"""The key of a trace's meta under which `critique_v1` finds the corrected trace."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What an example is going to say, before its response is put together."""

    prompt: str
    """What the user says, instruction included."""
    steps: Sequence[str]
    """What the model reasons, in order."""
    answer: str
    """What the model answers."""


@dataclass(frozen=True)
class Recipe:
    """The two directions between a trace and text."""

    draft: Callable[[TraceRow, str | None], Draft | Refused]
    """(trace, the dataset's instruction) -> what the example says, or why there is none."""
    render_prompt: Callable[[str, str | None], str]
    """(eval prompt, the dataset's instruction) -> what the user says."""
    render_response: Callable[[Sequence[str], str], str]
    """(steps in order, answer) -> what the model should say."""
    parse_response: Callable[[str], ParsedResponse]
    """Generated text -> steps and answer."""


def _prompt_with_instruction(prompt: str, instruction: str | None) -> str:
    return f"{prompt}\n\n{instruction}" if instruction else prompt


def _draft_trace(row: TraceRow, instruction: str | None) -> Draft:
    prompt = f"{row.prompt}\n\n{instruction}" if instruction else row.prompt
    return Draft(prompt, [step.content for step in row.steps], row.final_answer)


def _draft_answer(row: TraceRow, instruction: str | None) -> Draft:
    return Draft(_prompt_with_instruction(row.prompt, instruction), (), row.final_answer)


class _Correction(msgspec.Struct, frozen=True):
    """What meta.correction holds; the steps in order."""

    final_answer: Annotated[str, msgspec.Meta(min_length=1)]
    steps: list[str] = []


_correction_decoder = msgspec.json.Decoder(_Correction)


def _draft_critique(row: TraceRow, instruction: str | None) -> Draft | Refused:
    raw = (row.meta or {}).get(CORRECTION)
    if raw is None or bytes(raw) == b"null":
        return Refused("filtered", f"meta.{CORRECTION} is missing: there is nothing to learn from")
    try:
        correction = _correction_decoder.decode(raw)
    except msgspec.DecodeError as e:
        return Refused(
            "invalid", f"meta.{CORRECTION} is not {{final_answer, steps: [text, ...]}}: {e}"
        )
    flawed = render_response(row.step_contents, row.final_answer)
    prompt = _prompt_with_instruction(f"{row.prompt}\n\n{flawed}", instruction)
    return Draft(prompt, correction.steps, correction.final_answer)


RECIPES = {
    # Prompt -> steps and answer.
    "trace_sft_v1": Recipe(_draft_trace, _prompt_with_instruction, render_response, parse_response),
    # Prompt -> answer alone.
    "answer_only_v1": Recipe(
        _draft_answer, _prompt_with_instruction, render_response, parse_response
    ),
    # Prompt and a flawed trace -> the corrected trace. An eval prompt is asked as it is.
    "critique_v1": Recipe(
        _draft_critique, _prompt_with_instruction, render_response, parse_response
    ),
}
"""Every recipe by the name that dataset manifests carry."""


def recipe_named(name: str) -> Recipe:
    """Look a recipe up; SpecError lists those that exist."""
    return look_up(RECIPES, name, "recipe")
