"""Read steps and answer out of a generated text, in the form that its item expects."""

from __future__ import annotations

from dataclasses import replace

from tuneloop.artifacts.evaluation.eval_samples import Item
from tuneloop.evaluation.scorers.text.places import whole_answer
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.prompt_templates import Recipe
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.thinking_text import OPENING, parse_chat_response


def parse_answer(text: str, item: Item, recipe: Recipe, *, hit_limit: bool) -> ParsedResponse:
    """Return the steps and the answer that a trace of a generated text has.

    A bare answer is the whole text, as in a chat. Reasoning before it is one step, and a text that
    was cut has no answer.

    Args:
        text: the text, from `ChatFormat.decode_response`.
        item: the item that was asked.
        recipe: prompt template, which reads answers that are not bare.
        hit_limit: whether generation reached its maximum number of tokens.
    """
    if recipe.is_chat:
        parsed = recipe.parse_response(text)
        return ParsedResponse(parsed.steps, None) if hit_limit else parsed
    if item.bare_answer is not True:
        return recipe.parse_response(text)
    if text.startswith(OPENING):
        parsed = parse_chat_response(text)
        if hit_limit or parsed.answer is None:
            return ParsedResponse((), None)
        return replace(parsed, answer=parsed.answer.strip())
    answer = None if hit_limit else whole_answer(text)
    if answer is None:
        return ParsedResponse((), None)
    before = text.rstrip().removesuffix(answer).removeprefix("Reasoning:\n").strip()
    before = before.removesuffix("Answer:").strip()
    return ParsedResponse((before,) if before else (), answer)


def calls_tool(text: str, item: Item, chat_format: ChatFormat) -> bool:
    """Return whether a generated text calls a tool that was offered.

    A model calls a tool with a control token of its chat template, or with the text that the
    template writes before the name of a tool.

    Args:
        text: the text, from `ChatFormat.decode_response`.
        item: the item that was asked.
        chat_format: tokenizer and chat template of the model.
    """
    if not item.tools:
        return False
    mark = chat_format.turns.call_mark
    if mark in chat_format.control.tokens:
        return mark in text
    names = (each.get("function", {}).get("name") for each in item.tools)
    return bool(mark) and any(f"{mark}{name}" in text for name in names if name)
