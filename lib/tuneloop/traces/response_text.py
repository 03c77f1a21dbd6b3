"""Render steps and an answer as one response text, and parse such text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

WORD_JOINER = "\u2060"
_HEADING = "Reasoning:\n"
_ANSWER = re.compile(r"^Answer: ?", re.MULTILINE)


def render_response(steps: Sequence[str], final_answer: str) -> str:
    """Render a response: the numbered reasoning steps, then the answer."""
    form, lines = _response_form(len(steps))
    response = form % (*steps, final_answer)
    if response.count("\n") < lines:  # No content has several lines, so nothing needs a guard.
        return response
    return form % (*_guarded_steps(steps), _guarded(final_answer, "Answer:"))


@lru_cache(maxsize=1024)
def _reasoning_form(count: int) -> str:
    steps = "".join(f"{number}. %s\n" for number in range(1, count + 1))
    return f"{_HEADING}{steps}" if count else ""


@lru_cache(maxsize=1024)
def _response_form(count: int) -> tuple[str, int]:
    """Return the format string for a response with `count` steps, and its number of lines."""
    form = f"{_reasoning_form(count)}Answer: %s"
    return form, form.count("\n") + 1


def _guarded_steps(steps: Sequence[str]) -> list[str]:
    return [_guarded(step, f"{number}. ") for number, step in enumerate(steps, start=2)]


def _guarded(content: str, mark: str) -> str:
    """Insert a WORD JOINER before lines (after the first) that begin with `mark`.

    `mark` starts the next part of a response, so such a line would end this content too early.
    """
    if "\n" not in content:
        return content
    return re.sub(rf"\n({WORD_JOINER}*{re.escape(mark)})", rf"\n{WORD_JOINER}\1", content)


def _unguarded(content: str, mark: str) -> str:
    """Undo `_guarded`."""
    if WORD_JOINER not in content:
        return content
    return re.sub(rf"\n{WORD_JOINER}({WORD_JOINER}*{re.escape(mark)})", r"\n\1", content)


def split_reasoning(response: str) -> tuple[str, str]:
    """Split a response into its numbered steps and the rest, for models that think apart.

    Returns:
        The lines of the steps, without heading, and the text from the last `Answer:` on. The first
        is empty if the response has no steps before an answer.
    """
    answers = list(_ANSWER.finditer(response))
    if not answers or not response.startswith(_HEADING):
        return "", response
    start = answers[-1].start()
    return response[len(_HEADING) : start].removesuffix("\n"), response[start:]


def join_reasoning(reasoning: str, answer: str) -> str:
    """Undo `split_reasoning`.

    If the answer has no line that begins with `Answer:`, such lines of the reasoning are guarded,
    because an answer inside the reasoning is none, and a blank line ends the reasoning.
    """
    if not reasoning:
        return answer
    if _ANSWER.search(answer):
        return f"{_HEADING}{reasoning}\n{answer}"
    guarded = _guarded(f"\n{reasoning}", "Answer:")[1:]
    return f"{_HEADING}{guarded}\n\n{answer}"


@dataclass(frozen=True)
class ParsedResponse:
    """The steps and the answer found in a response."""

    steps: tuple[str, ...]
    """Contents of the numbered steps, in order; empty if there are none."""
    answer: str | None
    """The answer, such as the text after the last `Answer:` at the start of a line; None if there
    is none."""
    is_whole: bool = False
    """Whether steps and answer are known to be all of the response."""


def parse_plain_response(response: str) -> ParsedResponse:
    """Parse a response into steps and answer; the inverse of `render_response`.

    A line that begins with the next expected number starts a step; other lines continue the
    previous step. Text without numbered lines has no steps, and text without `Answer:` has no
    answer.
    """
    answers = list(_ANSWER.finditer(response))
    if not answers:
        return ParsedResponse(_parse_steps(response), None)
    answer = _unguarded(response[answers[-1].end() :], "Answer:")
    answered = answer if answer.strip() else None
    return ParsedResponse(_parse_steps(response[: answers[-1].start()]), answered)


def _parse_steps(text: str) -> tuple[str, ...]:
    steps: list[str] = []
    for line in text.removeprefix(_HEADING).removesuffix("\n").split("\n"):
        marker = f"{len(steps) + 1}. "
        if line.startswith(marker):
            steps.append(line.removeprefix(marker))
        elif steps:
            steps[-1] += f"\n{line}"
    # Empty steps are dropped, because traces cannot have them.
    return tuple(
        _unguarded(step, f"{number}. ") for number, step in enumerate(steps, start=2) if step
    )
