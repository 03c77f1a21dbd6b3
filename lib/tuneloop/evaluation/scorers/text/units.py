"""Units of measurement, by pint, with exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

_LONGEST = 60
_TERM = r"\(?\s?[^\W\d_][^\W\d]*\s?(?:(?:\^|\*\*)\s?-?[1-9](?![0-9]))?\s?\)?"
_UNIT = re.compile(rf"(?:1\s?/\s?)?{_TERM}(?:(?:\s?[*/]\s?|\s){_TERM})*")
"""Names with exponents of one digit; anything else could keep the parser busy: `m^9^9^9`."""
_SPELLINGS = (
    (re.compile(r"(?i)\bdeg(?:rees?|\.)?[ _]c(?:elsius|entigrade)?\b|°\s?C\b|\bcelsius\b"), "degC"),
    (re.compile(r"(?i)\bdeg(?:rees?|\.)?[ _]f(?:ahrenheit)?\b|°\s?F\b|\bfahrenheit\b"), "degF"),
    (re.compile(r"°(?!\s?\w)"), "degree"),
    (re.compile(r"(?i)\bnautical miles?\b"), "nautical_mile"),
    (re.compile(r"(?i)\blight[ -]years?\b"), "light_year"),
    (re.compile(r"(?i)\b(sq|cu)\. ?"), r"\1 "),
    (re.compile(r"(?i)^per "), "1/"),
    (re.compile(r"\b(km|cm|mm|m|ft|in|mi|yd|s)([23])\b"), r"\1^\2"),
    (re.compile(r"(?i)\bkph\b|\bkmh\b"), "km/h"),
    (re.compile(r"(?i)\bhrs?\b"), "hour"),
    (re.compile(r"(?i)\bmins\b"), "minute"),
    (re.compile(r"(?i)\bsecs?\b"), "second"),
    (re.compile(r"(?i)\b(?:lbs|pounds?)\b"), "pound"),
    (re.compile(r"\bML\b"), "mL"),
    (re.compile(r"\bK([MmGg])\b"), r"k\1"),
    (re.compile(r"·"), "*"),
    (re.compile(r"%"), "percent"),
)
"""Spellings that pint does not know -> its own."""


class NotAUnit(ValueError):
    """A text is not a unit that pint knows."""


@cache
def _registry() -> Any:
    import pint

    # Fractions keep conversions exact: a mile is 1.609344 km.
    return pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> Any:
    """Parse a unit, such as `km/h`, `m^2`, `°C` or `square meters`.

    Raises:
        NotAUnit: the text is no unit.
    """
    import pint

    if len(text) > _LONGEST:
        raise NotAUnit(text)
    text = text.strip().removesuffix(".")
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    if not _UNIT.fullmatch(text):
        raise NotAUnit(text)
    registry = _registry()
    for spelling in dict.fromkeys((text, text.lower())):
        if len(spelling) < 3 and spelling != text:
            continue  # KM is not km, but M is not m
        try:
            return registry.parse_units(spelling)
        except (pint.PintError, ValueError, TypeError, AttributeError, SyntaxError, KeyError):
            continue
        except Exception as error:  # the tokenizer of pint raises errors of its own
            raise NotAUnit(text) from error
    raise NotAUnit(text)


@lru_cache(maxsize=65536)
def convert(value: Fraction, unit: str, to: str) -> Fraction | None:
    """Convert a value between two units; None if their dimensions differ."""
    import pint

    registry = _registry()
    try:
        found = registry.Quantity(value, parse_unit(unit)).to(parse_unit(to))
    except pint.PintError:
        return None
    return Fraction(found.magnitude)


def is_unit(text: str) -> bool:
    """Say whether a text is a unit."""
    try:
        parse_unit(text)
    except NotAUnit:
        return False
    return True
