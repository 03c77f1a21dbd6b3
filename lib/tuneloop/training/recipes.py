"""Recipes: how a trace becomes a prompt and a response. A row each; the dataset names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuneloop.errors import SpecError
from tuneloop.training.renderers import ParsedResponse, parse_response, render_response


@dataclass(frozen=True)
class Recipe:
    """The two directions between a trace and text."""

    render_prompt: Callable[[str, str | None], str]
    """(trace or eval prompt, the dataset's instruction) -> what the user says."""
    render_response: Callable[[Sequence[str], str], str]
    """(step contents in order, final answer) -> what the model should say."""
    parse_response: Callable[[str], ParsedResponse]
    """Generated text -> steps and answer."""


def _prompt_with_instruction(prompt: str, instruction: str | None) -> str:
    return f"{prompt}\n\n{instruction}" if instruction else prompt


RECIPES = {
    "trace_sft_v1": Recipe(_prompt_with_instruction, render_response, parse_response),
}
"""Every recipe by the name that dataset manifests carry."""


def recipe_named(name: str) -> Recipe:
    """Look a recipe up; SpecError lists those that exist."""
    try:
        return RECIPES[name]
    except KeyError:
        known = ", ".join(sorted(RECIPES))
        raise SpecError(f"recipe {name!r} is unknown, expected one of: {known}") from None
