"""The text form of steps and answer: rendering and parsing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

WORD_JOINER = "\u2060"
_ANSWER = re.compile(r"^Answer: ?", re.MULTILINE)


def render_response(steps: Sequence[str], final_answer: str) -> str:
    """Render what the model says: its reasoning, then its answer."""
    form, lines = _response_form(len(steps))
    response = form % (*steps, final_answer)
    if response.count("\n") < lines:  # content of one line has nothing to guard
        return response
    return form % (*_guarded_steps(steps), _guarded(final_answer, "Answer:"))


@lru_cache(maxsize=1024)
def _reasoning_form(count: int) -> str:
    steps = "".join(f"{number}. %s\n" for number in range(1, count + 1))
    return f"Reasoning:\n{steps}" if count else ""


@lru_cache(maxsize=1024)
def _response_form(count: int) -> tuple[str, int]:
    """The form of a response with so many steps, and how many lines it has."""
    form = f"{_reasoning_form(count)}Answer: %s"
    return form, form.count("\n") + 1


def _guarded_steps(steps: Sequence[str]) -> list[str]:
    return [_guarded(step, f"{number}. ") for number, step in enumerate(steps, start=2)]


def _guarded(content: str, mark: str) -> str:
    """Content of which no line but the first begins with what would end it."""
    if "\n" not in content:
        return content
    return re.sub(rf"\n({WORD_JOINER}*{re.escape(mark)})", rf"\n{WORD_JOINER}\1", content)


def _unguarded(content: str, mark: str) -> str:
    """Undo `_guarded`."""
    if WORD_JOINER not in content:
        return content
    return re.sub(rf"\n{WORD_JOINER}({WORD_JOINER}*{re.escape(mark)})", r"\n\1", content)


@dataclass(frozen=True)
class ParsedResponse:
    """What stands in a generated response."""

    steps: tuple[str, ...]
    """Contents of the numbered steps, in order; empty if there are none."""
    answer: str | None
    """What follows the last line that begins with `Answer:`; None if no such line has any text."""


def parse_plain_response(response: str) -> ParsedResponse:
    """Read steps and answer back out of a response: the inverse of `render_response`.

    Steps are lines that begin with the next expected number; other lines continue the step before
    them. Text that holds neither yields no steps and no answer; nothing is guessed.
    """
    answers = list(_ANSWER.finditer(response))
    if not answers:
        return ParsedResponse(_parse_steps(response), None)
    answer = _unguarded(response[answers[-1].end() :], "Answer:")
    answered = answer if answer.strip() else None
    return ParsedResponse(_parse_steps(response[: answers[-1].start()]), answered)


def _parse_steps(text: str) -> tuple[str, ...]:
    steps: list[str] = []
    for line in text.removeprefix("Reasoning:\n").removesuffix("\n").split("\n"):
        marker = f"{len(steps) + 1}. "
        if line.startswith(marker):
            steps.append(line.removeprefix(marker))
        elif steps:
            steps[-1] += f"\n{line}"
    # An empty step is none: no trace has one.
    return tuple(
        _unguarded(step, f"{number}. ") for number, step in enumerate(steps, start=2) if step
    )
