"""A scorer that a user wrote: a Python file with the function `score(completion, item)`.

The function gets the answer that the prompt template's grammar finds and the item. It returns True
or False, a number from 0 to 1, or a dictionary with `value` and optionally `answer` and
`explanation`. The file runs with the rights of the process, as the rest of tuneloop does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import ScorerKind, correct, failed, wrong

FUNCTION = "score"
READS = "READS"
"""Optional constant of the file: `answer` or `text`, what the function gets."""
_KEYS = frozenset(("value", "answer", "explanation"))


@dataclass(frozen=True)
class UserScorer:
    """A loaded file."""

    place: str
    sha256: str
    """Digest of the file; a part of an evaluation's identity."""
    source: bytes
    """Content of the file."""
    kind: ScorerKind


def is_user_file(name: object) -> bool:
    """Say whether a scorer's name is the path or URL of a Python file."""
    return isinstance(name, str) and name.endswith(".py")


def load_user_scorer(data: bytes, place: str) -> UserScorer:
    """Load a scorer.

    Args:
        data: content of the file.
        place: path or URL of the file, for error messages.

    Raises:
        SpecError: the file is not UTF-8 or not Python, raises when it is loaded, or has no such
            function.
    """
    digest = hashlib.sha256(data).hexdigest()
    names: dict[str, Any] = {"__name__": f"tuneloop_user_scorer_{digest[:12]}", "__file__": place}
    try:
        exec(compile(data.decode("utf-8"), place, "exec"), names)
    except SyntaxError as error:
        raise SpecError(
            f"{place}:{error.lineno or 1}: not Python ({error.msg}), expected a file with the"
            f" function {FUNCTION}(completion, item); correct the line"
        ) from error
    except Exception as error:
        raise SpecError(
            f"{place}: raised {type(error).__name__} when it was loaded: {error}; expected a file"
            f" that defines {FUNCTION}(completion, item)"
        ) from error
    function = names.get(FUNCTION)
    if not callable(function):
        raise SpecError(
            f"{place}: has no function {FUNCTION}, expected {FUNCTION}(completion, item); add it"
        )
    reads = names.get(READS, "answer")
    if reads not in ("answer", "text"):
        raise SpecError(f"{place}: {READS} is {reads!r}, expected 'answer' or 'text'; change it")
    short = place.rsplit("/", 1)[-1]
    kind = ScorerKind(
        judge=_judging(function, short),
        description=f"the function in {short}, sha256 {digest[:12]}",
        reads=reads,
    )
    return UserScorer(place, digest, data, kind)


def _judging(
    function: Callable[[str, Item], Any], name: str
) -> Callable[[str, Item, Options], Judgement]:
    def judge(answer: str, item: Item, options: Options) -> Judgement:
        try:
            found = function(answer, item)
        except Exception as error:
            return failed(answer, f"{name} raised {type(error).__name__}: {error}"[:500])
        return _judgement(found, answer, item, name)

    return judge


def _judgement(found: object, answer: str, item: Item, name: str) -> Judgement:
    explanation = None
    if isinstance(found, Mapping):
        if unknown := [key for key in found if key not in _KEYS]:
            return failed(answer, f"{name} returned the unknown key {unknown[0]!r}")
        extracted, explanation = found.get("answer", answer), found.get("explanation")
        if not isinstance(extracted, str) or not isinstance(explanation, str | None):
            return failed(answer, f"{name} returned an answer or explanation that is not text")
        answer, found = extracted, found.get("value")
    if not isinstance(found, bool | int | float) or not math.isfinite(found):
        kind = type(found).__name__
        return failed(answer, f"{name} returned {kind}, expected a bool, a number or a dict")
    value = float(found)
    if not 0 <= value <= 1:
        return failed(answer, f"{name} returned {value:g}, expected a value from 0 to 1")
    if value == 1:
        return correct(answer, item.expected_answer, explanation)
    judged = wrong(answer, explanation)
    return Judgement(judged.state, value, answer, None, explanation)
