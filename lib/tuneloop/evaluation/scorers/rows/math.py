r"""Math: an answer is correct if it is mathematically equal to an accepted answer.

Equal spellings and plain numbers are decided here; math-verify decides the rest in a process of its
own. Alone it fails on letters of choices, on U+2212 and on `1e1`, and it is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from pydantic import Field

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.rows.exact import ExactOptions, judge_exact
from tuneloop.evaluation.scorers.rows.numeric import plain_value
from tuneloop.evaluation.scorers.text.characters import plain_characters
from tuneloop.evaluation.scorers.text.normalise import undecorated
from tuneloop.evaluation.scorers.worker import Crashed, TooLong, Worker

MAX_CHARACTERS = 2000
"""Longest answer that math-verify is asked about."""
MEMORY_BYTES = 4 << 30


class MathOptions(Options):
    """Options of `math`."""

    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    """Longest time for one comparison; then the state is `error`."""


def judge_math(answer: str, item: Item, options: MathOptions) -> Judgement:
    """Compare an answer with every accepted answer: as text, as a number, then by math-verify."""
    same = judge_exact(answer, item, ExactOptions(case_sensitive=True))
    if same.state == "correct":
        return same
    if len(answer) > MAX_CHARACTERS:
        return wrong(answer, f"the answer is longer than {MAX_CHARACTERS} characters")
    reason = None
    for spelling in (item.expected_answer, *item.accepted_answers):
        values = plain_value(spelling), plain_value(answer)
        if None not in values:
            if values[0] == values[1]:
                return correct(answer, spelling)
            continue
        try:
            found = _verify(spelling, answer, options.timeout_seconds)
        except TooLong as error:
            return failed(answer, f"math-verify: {error}")
        except Crashed:
            return failed(answer, "math-verify ended, perhaps because its memory ran out")
        if found is True:
            return correct(answer, spelling)
        reason = found or reason
    return wrong(answer, reason)


def _verify(expected: str, answer: str, timeout_seconds: float) -> bool | str:
    """Return True, or the reason why the two are not equal."""
    gold, found = _latex(expected), _latex(answer)
    return _worker().call((gold, found), timeout_seconds)  # type: ignore[no-any-return]


def _latex(text: str) -> str:
    """Put an answer in mathematics marks, after normalisation."""
    plain = undecorated(plain_characters(text)).replace("√", r"\sqrt").replace("π", r"\pi")
    plain = plain.replace("×", r"\times ").replace("∞", r"\infty").replace("÷", "/")
    return plain if "$" in plain or r"\boxed" in plain else f"${plain}$"


@cache
def _worker() -> Worker:
    return Worker(prepare, MEMORY_BYTES)


def prepare() -> Callable[[tuple[str, str]], bool | str]:
    """Import math-verify and return the comparison; called in the worker's process."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def compare(pair: tuple[str, str]) -> bool | str:
        try:
            # The caller's time limit replaces those of math-verify, which need signals.
            gold, answer = (parse(text, parsing_timeout=None) for text in pair)
            if not gold or not answer:
                which = "expected answer" if not gold else "answer"
                return f"math-verify cannot read the {which}"
            equal = verify(gold, answer, timeout_seconds=None)
        except (MemoryError, RecursionError) as error:
            return f"math-verify failed: {type(error).__name__}"
        return True if equal else "math-verify: not equal"

    return compare
