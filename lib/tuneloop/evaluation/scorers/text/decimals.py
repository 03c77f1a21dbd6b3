"""Read one written number, such as `1,234.5`, as an exact value."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from tuneloop.evaluation.scorers.text.characters import GROUP

MAX_DIGITS = 4000
"""Characters of the longest number that is read; Python refuses longer integers."""
RUN = rf"(?:[0-9]|[.,](?=[0-9]))(?:[0-9]|[.,'_{GROUP}](?=[0-9]))*"
"""A run of digits and separators, to be read by `read_decimal`."""
_DEFAULT = re.compile(
    rf"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:(?:,[0-9]{{3}})+|(?:[{GROUP}'][0-9]{{3}})+)"
    r"|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}|[1-9][0-9]{0,2}(?:_[0-9]{3})+)?(?:\.[0-9]+)?"
)
_SEPARATORS = str.maketrans("", "", f",'_{GROUP}")
_SPACED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])")


def read_decimal(run: str, locale: str | None) -> Fraction | None:
    """Read a run of digits and separators.

    Args:
        run: the number in plain characters, without sign and exponent.
        locale: locale that says what the separators mean. None: `.` is the decimal point, and
            `,`, `'`, `_` and unbreakable spaces group digits.

    Returns:
        The value; None if the separators are not where the locale puts them, or if the number has
        more than `MAX_DIGITS` characters.
    """
    if len(run) > MAX_DIGITS:
        return None
    if run.isdigit():
        return Fraction(int(run))
    if locale is not None:
        return _read_with_babel(run, locale)
    return Fraction(run.translate(_SEPARATORS)) if _DEFAULT.fullmatch(run) else None


def _read_with_babel(run: str, locale: str) -> Fraction | None:
    from babel.numbers import NumberFormatError, parse_decimal

    group = _group_symbol(locale)
    written = run.replace(GROUP, group if group.isspace() else GROUP)
    if not group.isspace() and group not in ".,":
        written = written.replace("'", group)
    try:
        return Fraction(parse_decimal(written, locale=locale, strict=True))
    except NumberFormatError:
        return None


@lru_cache(maxsize=256)
def _group_symbol(locale: str) -> str:
    from babel.numbers import get_group_symbol

    return str(get_group_symbol(locale))


def join_spaced_groups(text: str) -> str:
    """Replace the spaces in `1 234 567` by spaces that cannot be broken."""
    return _SPACED.sub(lambda found: found[0].replace(" ", GROUP), text) if " " in text else text


def locale_problem(locale: str) -> str | None:
    """Say what is wrong with the name of a locale; None if it is known."""
    from babel.core import Locale, UnknownLocaleError

    try:
        Locale.parse(locale)
    except (UnknownLocaleError, ValueError):
        return "expected the name of a locale, such as de_DE, fr or en_IN"
    return None
