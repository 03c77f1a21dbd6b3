"""Choice: an answer is correct if it names the expected choice by its label or by its text."""

from __future__ import annotations

import re
import string
from functools import lru_cache

from pydantic import field_validator

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.text.characters import plain_characters
from tuneloop.evaluation.scorers.text.normalise import normalise, undecorated
from tuneloop.evaluation.scorers.text.places import marked

_LABEL = r"(?P<label>[A-Za-z]|[0-9]{1,2})"
_LINE = re.compile(
    rf"^[ \t]*(?:[-*][ \t]*)?\(?\*{{0,2}}{_LABEL}(?:\)|\.|:)\*{{0,2}}[ \t]+(?P<text>\S.*)$",
    re.MULTILINE,
)
_WORDS = r"(?:the |an? )?(?:correct |right |best |final )?(?:option|choice|answer)?(?: is)?:?"
_ANSWER = re.compile(
    rf"(?:{_WORDS}\s*)?[(\[]?\*{{0,2}}(?-i:{_LABEL})\*{{0,2}}"
    r"(?P<mark>[)\].:,]*(?:\s*[-=—](?=\s))?)\*{0,2}(?:\s+(?P<text>\S.*))?",
    re.IGNORECASE | re.DOTALL,
)
_SEVERAL = re.compile(
    r"(?:\s*(?:,|/|&|\+|and|or)\s*\(?\*{0,2}(?:[A-Z]|[0-9]{1,2})\b)", re.IGNORECASE
)
_STANDALONE = re.compile(
    r"(?<![\w'’*(\[-])[(\[]?\*{0,2}(?P<label>[A-Z]|[0-9]{1,2})(?P<mark>\*{0,2}[)\].:]?)(?![\w'’])"
)
_JOINED = re.compile(r"\W*(?:,|/|&|\+|and|or)\W*", re.IGNORECASE)
_ARTICLES = ("A", "I")
"""Labels that are words, too."""


class ChoiceOptions(Options):
    """Options of `choice`."""

    choices: dict[str, str] | None = None
    """Label -> text of the choices; a list gets the labels A, B, C. Null: the lines of the prompt
    that begin with a label, such as `B) Rome` or `(B) Rome`."""

    @field_validator("choices", mode="before")
    @classmethod
    def _labelled(cls, choices: object) -> object:
        if isinstance(choices, list) and len(choices) <= len(string.ascii_uppercase):
            return dict(zip(string.ascii_uppercase, choices, strict=False))
        return choices


def judge_choice(answer: str, item: Item, options: ChoiceOptions) -> Judgement:
    """Compare the label or the text of an answer with the expected choice.

    An answer that names two choices, or a label with the text of another choice, is wrong.
    """
    choices = _choices(item.prompt, options)
    spellings = (item.expected_answer, *item.accepted_answers)
    expected = {label for each in spellings if (label := _label_of(each, choices))}
    if not expected:
        return failed(answer, _not_a_choice(item.expected_answer, choices))
    label, problem = _read(answer, choices)
    if label is None:
        return wrong(answer, problem)
    if label in expected:
        return correct(answer, label)
    return wrong(answer, f"the answer is {label}, expected {' or '.join(sorted(expected))}")


def check_choice(item: Item, options: ChoiceOptions) -> str | None:
    """Say which expected answer is none of the choices; None if all are."""
    choices = _choices(item.prompt, options)
    for spelling in (item.expected_answer, *item.accepted_answers):
        if _label_of(spelling, choices) is None:
            return _not_a_choice(spelling, choices)
    return None


def search_choice(text: str, item: Item, options: ChoiceOptions) -> list[str]:
    """Try what is marked as the answer, then the last label that is on its own, or a lone text.

    `A` and `I` are words too: on their own they count only with a bracket, a full stop, a colon or
    bold marks, or at the end of a line.
    """
    choices = _choices(item.prompt, options)
    found = marked(text)
    if found is not None:
        label = _last_label(found.split(". ")[0], choices)
        return [found, label] if label else [found]
    if label := _last_label(text, choices):
        return [label]
    plain = normalise(text)
    named = [key for key, value in choices.items() if (t := normalise(value)) and t in plain]
    return named if len(named) == 1 else []


def _choices(prompt: str, options: ChoiceOptions) -> dict[str, str]:
    if options.choices is not None:
        return {label.upper(): text for label, text in options.choices.items()}
    return _choices_in(prompt)


@lru_cache(maxsize=16384)
def _choices_in(prompt: str) -> dict[str, str]:
    """Return the last list of labelled lines whose labels are in order; empty without one."""
    found: dict[str, str] = {}
    for line in _LINE.finditer(plain_characters(prompt)):
        label = line["label"].upper()
        if label in ("A", "1", "0"):
            found = {}
        found[label] = line["text"].strip()
    return found if len(found) > 1 else {}


def _label_of(spelling: str, choices: dict[str, str]) -> str | None:
    label, _ = _read(spelling, choices)
    return label


def _read(answer: str, choices: dict[str, str]) -> tuple[str | None, str | None]:
    """Return the label that an answer names, or the reason why it names none."""
    text = undecorated(plain_characters(answer))
    by_text = {normalise(value): label for label, value in choices.items()}
    if (label := by_text.get(normalise(text))) is not None:
        return label, None
    found = _ANSWER.fullmatch(text)
    if found is None:
        return None, "the answer is none of the choices"
    label, rest = found["label"].upper(), found["text"]
    if choices and label not in choices:
        lone = rest is None or found["mark"].strip()
        which = label if lone else "the answer"
        return None, f"{which} is none of the choices {', '.join(choices)}"
    if rest is None:
        return label, None
    if _SEVERAL.match(text, found.end("label")):
        return None, "the answer names several choices"
    stated = by_text.get(normalise(rest))
    if stated is not None and stated != label:
        return None, f"the answer is {label} with the text of {stated}"
    if stated is None and not found["mark"].strip():
        return None, "the answer is none of the choices"
    return label, None


def _last_label(text: str, choices: dict[str, str]) -> str | None:
    """Return the last label that is on its own; None if it is one of several joined labels."""
    plain = plain_characters(text)
    last: re.Match[str] | None = None
    before: re.Match[str] | None = None
    joined = False
    for found in _STANDALONE.finditer(plain):
        if (found["label"] not in choices) if choices else found["label"].isdigit():
            continue
        follows = before is not None and _JOINED.fullmatch(plain, before.end(), found.start())
        before = found
        if _may_be_label(found):
            last, joined = found, bool(follows)
    if last is None or joined:
        return None
    rest = normalise(plain[last.end() :].partition("\n")[0])
    others = (value for key, value in choices.items() if key != last["label"])
    return None if rest and rest in map(normalise, others) else last["label"]


def _may_be_label(found: re.Match[str]) -> bool:
    if found["label"] not in _ARTICLES or found["mark"] or found[0][0] in "([*":
        return True
    return not found.string[found.end() :].partition("\n")[0].strip()


def _not_a_choice(spelling: str, choices: dict[str, str]) -> str:
    known = ", ".join(choices) or "a label such as B"
    return f"expected answer {spelling[:60]!r} is none of the choices, expected one of: {known}"
