"""Numeric: an answer is correct if it is the expected number, in any usual spelling.

Values are exact fractions, so that 0.1 + 0.2 is 0.3, and a tolerance includes its limits.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from pydantic import Field, field_validator

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, failed, wrong
from tuneloop.evaluation.scorers.text.characters import GROUP, plain_characters
from tuneloop.evaluation.scorers.text.decimals import locale_problem
from tuneloop.evaluation.scorers.text.normalise import normalise, undecorated
from tuneloop.evaluation.scorers.text.numbers import (
    CENT,
    NotANumber,
    Number,
    currencies_agree,
    currency_named,
    find_numbers,
    first_number,
    last_number,
    plain_latex,
)
from tuneloop.evaluation.scorers.text.places import marked
from tuneloop.evaluation.scorers.text.units import convert, is_unit

PERCENT = "%"
_SHOWN = 60


class NumericOptions(Options):
    """Options of `numeric`."""

    tolerance: Decimal = Field(default=Decimal(0), ge=0, allow_inf_nan=False)
    """Largest absolute difference that is correct, in the unit of the expected answer."""
    relative_tolerance: Decimal = Field(default=Decimal(0), ge=0, lt=1, allow_inf_nan=False)
    """Largest difference that is correct, as a share of the expected value."""
    unit: str | None = None
    """Unit of the expected answer, such as `km/h`, `USD` or `%`. Answers in other units of the same
    dimension are converted. Null: the unit that the expected answer states, if any."""
    unit_required: bool = False
    """Whether an answer without a unit is wrong; otherwise it counts as given in the unit."""
    locale: str | None = None
    """Locale of the numbers in answers and expected answers, such as `de_DE`. Null: English
    notation."""

    @field_validator("locale")
    @classmethod
    def _known_locale(cls, locale: str | None) -> str | None:
        if locale is not None and (problem := locale_problem(locale)):
            raise ValueError(problem)
        return locale

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str | None) -> str | None:
        if unit is None or unit == PERCENT or currency_named(unit) or is_unit(unit):
            return unit
        raise ValueError("expected a unit, such as km/h or m^2, a currency or %")


class Expected:
    """An expected number with its unit."""

    def __init__(self, text: str, unit: str | None, locale: str | None) -> None:
        """Read it.

        Raises:
            NotANumber: the text has no single number.
        """
        found = _read(text, locale)
        if len(found) != 1:
            raise NotANumber("it has no single number")
        number = found[0]
        self.value = number.value
        self.percent = number.percent or unit == PERCENT
        self.currency = number.currency or (currency_named(unit) if unit else None)
        self.unit = None
        if not self.percent and self.currency is None:
            self.unit = unit or (number.tail if number.tail and is_unit(number.tail) else None)


def judge_numeric(answer: str, item: Item, options: NumericOptions) -> Judgement:
    """Compare the number of an answer with every accepted answer.

    An answer with several numbers is correct only if each of them is, such as `1/2 (0.5)`. Accepted
    answers that are no numbers, such as `none`, are compared as text.
    """
    numbers, words = _all_expected(
        (item.expected_answer, *item.accepted_answers), options.unit, options.locale
    )
    if not numbers:
        return failed(answer, "no expected answer is a number")
    if words and (spelling := words.get(normalise(answer))):
        return correct(answer, spelling)
    try:
        found = _read(answer, options.locale)
    except NotANumber as error:
        return wrong(answer, str(error))
    if not found:
        return wrong(answer, "the answer has no number")
    reason = None
    for spelling, expected in numbers.items():
        problems = (_problem(number, expected, options) for number in found)
        problem = next(filter(None, problems), None)
        if problem is None:
            return correct(answer, spelling)
        reason = reason or problem
    if len(found) > 1:
        reason = f"the answer has several numbers, and one is wrong: {reason}"
    return wrong(answer, reason)


def check_numeric(item: Item, options: NumericOptions) -> str | None:
    """Say why the expected answer is not a number; None if it is."""
    try:
        Expected(item.expected_answer, options.unit, options.locale)
    except NotANumber as error:
        shown = item.expected_answer[:_SHOWN]
        return f"expected_answer is {shown!r}, expected one number for the scorer numeric: {error}"
    return None


def search_numeric(text: str, item: Item, options: NumericOptions) -> list[str]:
    """Try what is marked as the answer, whole and its first number, or the last number."""
    found = marked(text)
    if found is None:
        last = last_number(plain_characters(text))
        return [last] if last else []
    first = first_number(plain_latex(plain_characters(found)))
    return [found, first] if first and first != found else [found]


@lru_cache(maxsize=65536)
def _all_expected(
    spellings: tuple[str, ...], unit: str | None, locale: str | None
) -> tuple[dict[str, Expected], dict[str, str]]:
    """Return the numbers by spelling, and normal form -> spelling of those that are none."""
    numbers: dict[str, Expected] = {}
    words: dict[str, str] = {}
    for spelling in spellings:
        try:
            numbers[spelling] = Expected(spelling, unit, locale)
        except NotANumber:
            words[normalise(spelling)] = spelling
    return numbers, words


def _read(text: str, locale: str | None) -> list[Number]:
    """Read the numbers of an answer; of an equation, those after the last equals sign."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return [Number(Fraction(int(text)), text)]
    plain = plain_latex(undecorated(plain_characters(text)))
    after = max(plain.rfind("="), plain.rfind("≈"))
    if after >= 0 and plain[after - 1 : after] not in ("<", ">", "!"):
        plain = plain[after + 1 :]
    return find_numbers(plain, locale)


def _problem(number: Number, expected: Expected, options: NumericOptions) -> str | None:
    """Say why a number is not the expected one; None if it is."""
    candidates = _values(number, expected, options)
    if isinstance(candidates, str):
        return candidates
    allowed = max(
        Fraction(options.tolerance), abs(expected.value) * Fraction(options.relative_tolerance)
    )
    if any(abs(value - expected.value) <= allowed for value in candidates):
        return None
    difference = min(abs(value - expected.value) for value in candidates)
    within = f", more than {_shown(allowed)}" if allowed else ""
    return f"{number.text[:_SHOWN]} differs from the expected value by {_shown(difference)}{within}"


def _values(number: Number, expected: Expected, options: NumericOptions) -> list[Fraction] | str:
    """Return what a number may mean in the unit of the expected value, or why it cannot."""
    value = number.value
    if expected.percent:
        if number.percent:
            return [value]
        # A pure ratio equals its percentage: 0.5 is 50 %.
        return [value * 100] if options.unit_required else [value, value * 100]
    if number.percent:
        return [value / 100]
    if expected.currency is not None:
        return _money(number, expected.currency, options)
    if expected.unit is None:
        if number.attached and number.tail and number.currency is None:
            unit = number.tail.split()[0]
            if len(unit) < 2 or not is_unit(unit):
                return f"{number.text + number.tail[:20]!r} is not a plain number"
        return [value]
    if number.tail and is_unit(number.tail):
        converted = convert(value, number.tail, expected.unit)
        if converted is None:
            return f"{number.tail!r} cannot be converted to {expected.unit!r}"
        return [converted]
    if number.currency is not None:
        return f"{number.currency} cannot be converted to {expected.unit!r}"
    if options.unit_required:
        return f"{number.text!r} has no unit, expected {expected.unit!r}"
    if number.attached and number.tail:
        return f"{number.tail[:20]!r} is not a unit"
    return [value]


def _money(number: Number, currency: str, options: NumericOptions) -> list[Fraction] | str:
    if number.currency is None:
        return "the answer has no currency" if options.unit_required else [number.value]
    if not currencies_agree(number.currency, currency):
        return f"{number.currency} is another currency, expected {currency}"
    if number.currency == currency:
        return [number.value]
    if number.currency == CENT:
        return [number.value / 100]
    return [number.value * 100 if currency == CENT else number.value]


def _shown(value: Fraction) -> str:
    try:
        return f"{float(value):.6g}"
    except OverflowError:
        return "more than 1e308"


def plain_value(text: str) -> Fraction | None:
    """Return the value of a text that is one number and nothing else, such as `-1/2` or `50%`."""
    try:
        found = _read(text, None)
    except NotANumber:
        return None
    if len(found) != 1 or found[0].tail or found[0].currency is not None:
        return None
    plain = plain_latex(undecorated(plain_characters(text))).strip().lstrip("+")
    if found[0].text.lstrip("+") not in (plain, plain.replace(" ", GROUP)):
        return None
    return found[0].value / 100 if found[0].percent else found[0].value
