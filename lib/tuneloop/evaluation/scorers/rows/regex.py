"""Regex: an answer is correct if a regular expression of the item matches it in bounded time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.text.normalise import normal_spellings, normalise

GROUP = "answer"
"""Named group of a pattern; its text must equal an accepted answer."""


class RegexOptions(Options):
    """Options of `regex`."""

    pattern: str = Field(min_length=1, max_length=2000)
    """Regular expression of the Python package `regex`. If it has a group named `answer`, the text
    of the group must equal an accepted answer after normalisation."""
    match: Literal["search", "full"] = "search"
    """Whether the pattern may match a part, or must match the whole."""
    ignore_case: bool = False
    """Whether letter case is ignored."""
    timeout_seconds: float = Field(default=1.0, gt=0, le=60)
    """Longest time for one answer; then the state is `error`."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        import regex

        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"expected a regular expression: {error}") from error
        return pattern


def judge_regex(answer: str, item: Item, options: RegexOptions) -> Judgement:
    """Match the item's pattern."""
    compiled = _compiled(options.pattern, options.ignore_case)
    match = compiled.fullmatch if options.match == "full" else compiled.search
    try:
        found = match(answer, timeout=options.timeout_seconds)
    except TimeoutError:
        seconds = options.timeout_seconds
        return failed(
            answer, f"the pattern took longer than {seconds:g} s; write it without nesting"
        )
    if found is None:
        return wrong(answer, "the pattern does not match")
    if GROUP not in compiled.groupindex:
        return correct(found[0], options.pattern)
    named = found[GROUP] or ""
    spellings = normal_spellings(
        (item.expected_answer, *item.accepted_answers), item.case_sensitive
    )
    key = normalise(named, case_sensitive=item.case_sensitive)
    if key in spellings:
        return correct(named, spellings[key])
    return wrong(named, "the group `answer` of the match is another answer")


@lru_cache(maxsize=4096)
def _compiled(pattern: str, ignore_case: bool) -> Any:
    import regex

    return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
