"""Find the numbers of a text, with their signs, fractions, powers, currencies and units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tuneloop.evaluation.scorers.text.decimals import RUN, join_spaced_groups, read_decimal

_MAX_EXPONENT = 2000
_MAX_POWER_BITS = 20_000
_SYMBOLS = {
    "$": "$", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "₩": "KRW", "₽": "RUB", "₺": "TRY",
    "₪": "ILS", "₫": "VND", "₴": "UAH", "₦": "NGN", "฿": "THB", "zł": "PLN", "R$": "BRL",
}  # fmt: skip
_CODES = (
    "USD EUR GBP JPY CNY INR KRW RUB TRY ILS VND UAH NGN THB PLN BRL CAD AUD NZD SGD HKD MXN CHF"
    " SEK NOK DKK CZK HUF ZAR"
)
_NAMES = {
    "dollar": "$", "dollars": "$", "euro": "EUR", "euros": "EUR", "rupees": "INR", "yen": "JPY",
    "bucks": "$", "pounds sterling": "GBP", "us dollars": "USD",
}  # fmt: skip
CENT = "cent"
"""Currency of an amount in cents, which belong to the dollar, the euro and others."""
_DOLLARS = frozenset(("$", "USD", "CAD", "AUD", "NZD", "SGD", "HKD", "MXN"))
_CENTS = _DOLLARS | {"EUR", "ZAR", CENT}
_SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "mn": 10**6, "bn": 10**9,
}  # fmt: skip
_MONEY_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9, "t": 10**12}

_SIGNS = "".join(symbol for symbol in _SYMBOLS if len(symbol) == 1)
_CURRENCY = rf"(?:US|CA|AU|NZ|R|A|C)?[{_SIGNS}]|\b(?:{_CODES.replace(' ', '|')})\b"
_PHRASE = re.compile(
    rf"""
    (?:(?P<sign>(?<![\w.)\]}}%+-])[-+])(?={_CURRENCY}|[0-9.]))?
    (?:(?P<currency>{_CURRENCY})\s?(?P<sign2>[-+])?)?
    (?<![\w^√∛∓±\\])(?P<whole>{RUN})
    (?:
        [eE](?P<e>[-+]?[0-9]{{1,5}})(?!\w)
      | \s?(?:[x×*·⋅]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?[({{]?(?P<ten>[-+]?[0-9]{{1,5}})[)}}]?
      | (?:\^|\*\*)[({{]?(?P<power>[-+]?[0-9]{{1,5}})[)}}]?
      | (?:\s?[+]\s?|[\s-])(?P<numerator>[0-9]{{1,9}})\s?/\s?(?P<denominator>[0-9]{{1,9}})(?![\w.])
      | \s?/\s?(?P<over>{RUN})(?!\w)
    )?
    """,
    re.VERBOSE,
)
_SCALE = re.compile(rf"\s?({'|'.join(_SCALES)})\b\s?", re.IGNORECASE)
_MONEY_SCALE = re.compile(r"(bn|[kmbt])\b", re.IGNORECASE)
_AFTER_CURRENCY = re.compile(
    rf"\s?(?:({'|'.join(re.escape(s) for s in _SYMBOLS)})|({_CODES.replace(' ', '|')})\b"
    rf"|({'|'.join(_NAMES)})\b|(¢|cents?\b))",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"\s?(?:%|per ?cent\b|pct\b)", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_OPERATOR = re.compile(r"\s?(?:[-+*/^=<>×÷√!|\\_]|:[0-9])")
_TAIL_END = re.compile(r"[,;!?\n=≈()]|\.(?=\s|$)|(?:\s(?:or|and|to|but|because|since|which|is)\b)")
_BULLET = re.compile(r"[0-9]+[.)]\s")
_BOUND = re.compile(
    r"(?:[<>≤≥≠±]|\b(?:not|(?:less|more|greater|fewer|larger|smaller) than|at (?:least|most)|over"
    r"|under|above|below|sqrt|log|ln|sin|cos|tan|exp|root|base)|\w\(|\|)\s?$",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[\\{}~*]|\$[^$]+\$")
_LATEX = (
    (re.compile(r"\$([^$]+)\$(?![0-9])"), r"\1"),
    (re.compile(r"(?<![0-9)])\*\*|\*\*(?![0-9(])"), ""),
    (re.compile(r"(?<=[0-9])\s?\\[dtc]?frac\s?\{(-?[0-9.]+)\}\s?\{([0-9.]+)\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s?\{(-?[0-9.]+)\}\s?\{([0-9.]+)\}"), r"\1/\2"),
    (re.compile(r"(?<=[0-9])\s?\\[dtc]?frac\s?([0-9])\s?([0-9])"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s?([0-9])\s?([0-9])"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname|mathit|unit)\s?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:[,;:! ]|q?quad\b)|(?<!\\)~"), " "),
    (re.compile(r"(?<=[0-9])\s?\{,\}\s?(?=[0-9])"), ","),
    (re.compile(r"\^\s?\{?\\circ\}?"), "°"),
    (re.compile(r"\\([%$#&_{}])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\(?:left|right)\b\s?"), ""),
    (re.compile(r"\^\{(-?[0-9]+)\}"), r"^\1"),
)


@dataclass(frozen=True)
class Number:
    """A number in a text."""

    value: Fraction
    """Value without unit; 50 for `50 %`."""
    text: str
    """The number as it is in the text, with its currency or percent sign."""
    percent: bool = False
    currency: str | None = None
    """Code or symbol of a currency."""
    tail: str = ""
    """What follows the number and may be a unit."""
    attached: bool = False
    """Whether the tail follows without a space."""


class NotANumber(ValueError):
    """A text has no single number; the message is the reason."""


def plain_latex(text: str) -> str:
    """Write LaTeX fractions, spaces and signs as plain text."""
    if not _MARKUP.search(text):
        return text
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def find_numbers(text: str, locale: str | None) -> list[Number]:
    """Find the numbers of a text.

    Args:
        text: text in plain characters.
        locale: locale of the numbers; see `read_decimal`.

    Raises:
        NotANumber: a number is part of an expression, is only a bound, or is written in a way that
            the locale does not allow.
    """
    text = join_spaced_groups(text)
    found = list(_PHRASE.finditer(text))
    ends = [*(each.start() for each in found[1:]), len(text)]
    return [_number(each, end, locale) for each, end in zip(found, ends, strict=False)]


def last_number(text: str) -> str | None:
    """Return the last number of a text with what follows it up to the end of its clause."""
    found = [each for each in _PHRASE.finditer(text) if not _is_bullet(each)]
    return _with_tail(found[-1]) if found else None


def first_number(text: str) -> str | None:
    """Return the first number of a text with what follows it up to the end of its clause."""
    found = _PHRASE.search(text)
    return _with_tail(found) if found else None


def currencies_agree(one: str, other: str) -> bool:
    """Say whether two currencies may be the same: `$` may be any dollar."""
    return (
        one == other
        or ("$" in (one, other) and {one, other} <= _DOLLARS)
        or (CENT in (one, other) and {one, other} <= _CENTS)
    )


def currency_named(text: str) -> str | None:
    """Return the currency that a unit names, such as `USD`, `€` or `dollars`; None for others."""
    found = _AFTER_CURRENCY.fullmatch(text.strip())
    return _currency(found) if found else None


def _is_bullet(found: re.Match[str]) -> bool:
    text, start = found.string, found.start()
    return (start == 0 or text[start - 1] == "\n") and _BULLET.match(text, start) is not None


def _with_tail(found: re.Match[str]) -> str:
    text = found.string
    following = _PHRASE.search(text, found.end())
    end = following.start() if following else len(text)
    if cut := _TAIL_END.search(text, found.end(), end):
        end = cut.start()
    return text[found.start() : end].strip()


def _number(found: re.Match[str], stop: int, locale: str | None) -> Number:
    text = found.string
    if bound := _BOUND.search(text, max(0, found.start() - 14), found.start()):
        raise NotANumber(f"{bound[0].strip()!r} is before the number {found[0].strip()}")
    value = _value(found, locale)
    end = found.end()
    currency = _before_currency(found["currency"])
    if scale := _SCALE.match(text, end):
        value, end = value * _SCALES[scale[1].lower()], end + len(scale[0].rstrip())
    elif currency and (scale := _MONEY_SCALE.match(text, end)):
        value, end = value * _MONEY_SCALES[scale[1].lower()], scale.end()
    if percent := _PERCENT.match(text, end):
        end = percent.end()
    elif after := _AFTER_CURRENCY.match(text, end):
        currency, end = _currency(after), after.end()
    elif ordinal := _ORDINAL.match(text, end):
        end = ordinal.end()
    elif operator := _OPERATOR.match(text, end):
        if operator[0].strip() != "-" or text[operator.end() : operator.end() + 1].isdigit():
            raise NotANumber(
                f"{text[found.start() : operator.end() + 1].strip()!r} is an expression"
            )
    cut = _TAIL_END.search(text, end, stop)
    tail = text[end : cut.start() if cut else stop]
    return Number(
        value, text[found.start() : end].strip(), percent is not None, currency, tail.strip(),
        bool(tail) and not tail[0].isspace(),
    )  # fmt: skip


def _value(found: re.Match[str], locale: str | None) -> Fraction:
    value = read_decimal(found["whole"], locale)
    if value is None:
        spelled = found["whole"] if len(found["whole"]) < 40 else f"{found['whole'][:30]}..."
        raise NotANumber(
            f"{spelled!r} is not a number in the locale {locale}" if locale else
            f"{spelled!r} is not a number in English notation, and the item states no locale"
        )  # fmt: skip
    exponent = found["e"] or found["ten"]
    if exponent:
        value *= _power(Fraction(10), int(exponent))
    elif found["power"]:
        value = _power(value, int(found["power"]))
    elif found["denominator"]:
        if not int(found["denominator"]):
            raise NotANumber("the denominator is 0")
        value += Fraction(int(found["numerator"]), int(found["denominator"]))
    elif found["over"]:
        over = read_decimal(found["over"], locale)
        if not over:
            raise NotANumber(f"{found['over']!r} is not a denominator")
        value /= over
    return -value if "-" in (found["sign"], found["sign2"]) else value


def _power(base: Fraction, exponent: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > _MAX_EXPONENT or bits * abs(exponent) > _MAX_POWER_BITS:
        raise NotANumber("the exponent is too large")
    if base == 0 and exponent <= 0:
        raise NotANumber("a power of 0 is not defined")
    return base**exponent


def _before_currency(written: str | None) -> str | None:
    if written is None:
        return None
    prefixed = {
        "US$": "USD",
        "CA$": "CAD",
        "C$": "CAD",
        "AU$": "AUD",
        "A$": "AUD",
        "NZ$": "NZD",
        "R$": "BRL",
    }
    return prefixed.get(written) or _SYMBOLS.get(written) or written


def _currency(found: re.Match[str]) -> str:
    symbol, code, name, cents = found.groups()
    if cents:
        return CENT
    if symbol:
        return _SYMBOLS.get(symbol) or _SYMBOLS[symbol.lower()]
    return str(code.upper() if code else _NAMES[name.lower()])
