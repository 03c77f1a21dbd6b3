"""Replace characters by plainer ones of the same value: `５` by `5`, `½` by `1/2`, `x²` by `x^2`.

NFKC is not used: it reads `2⁵` as `25` and `3½` as `31⁄2`. Each character is replaced on its own,
by its kind of compatibility, and only where its neighbours do not change the value of the result.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
)
_SIMPLE = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d\u02d7", "-"),
    **dict.fromkeys("‘’‛ʼ", "'"),
    **dict.fromkeys("“”‟", '"'),
    "⁄": "/",
    "∕": "/",
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "。": ".",
    "．": ".",
    "、": ",",
    "∗": "*",
    "ℓ": "l",
    "µ": "μ",
}
"""Characters that Unicode does not call compatible with what they are replaced by here."""
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_KEPT_KINDS = frozenset({"<super>", "<sub>", "<fraction>", "<circle>"})
_DOUBLE_STRUCK = range(0x1D538, 0x1D56C)
_MATHEMATICAL = range(0x1D400, 0x1D800)

_REMOVED = re.compile(f"[{_INVISIBLE}]+")
_JOINERS = re.compile(f"[{_ZWNJ}{_ZWJ}]+")
_SPACE = re.compile(f"[{_SPACES}]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SUPER = re.compile("[⁰¹²³⁴-⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_SUB = re.compile("([₀-₉₊₋₌₍₎]+)")
_SLASHED = re.compile("(?<![⁰¹²³⁴-⁹])([⁰¹²³⁴-⁹]++)⁄([₀-₉]+)")
_FRACTION = re.compile("([0-9]?)([¼-¾⅐-⅞↉])(?=([0-9]?))")
_SCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()ni0123456789+-=()")
_CIRCLED = re.compile("[①-⑳⓪Ⓐ-ⓩ㉑-㉟㊱-㊿❶-➓⓫-⓴⓵-⓾⓿🄰-🅉🅐-🅩]")


def plain_characters(text: str) -> str:
    """Return the text in plain characters, composed (NFC), with the same value.

    Removed are characters that are invisible: marks of direction, zero-width characters, soft
    hyphens and selectors of variants. Joiners between letters or emoji are kept. Takes time
    in proportion to the length of the text.
    """
    if text.isascii():
        return text
    text = _REMOVED.sub("", text)
    if _ZWJ in text or _ZWNJ in text:
        text = _JOINERS.sub(_joiners, text)
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = _CIRCLED.sub(_circled, text)
    text = _FRACTION.sub(_fraction, text)
    text = _SLASHED.sub(_slashed, text)
    text = _SUPER.sub(lambda found: f"^{found[0].translate(_SCRIPTS)}", text)
    text = _SUB.sub(_subscript, text)
    text = _SPACE.sub(_space, text)
    text = _NOT_ASCII.sub(lambda found: _plain(found[0]), text)
    return unicodedata.normalize("NFC", text)


def _space(found: re.Match[str]) -> str:
    """Replace a space; one between digits becomes the mark of a group of thousands."""
    return GROUP if all(part.isdecimal() for part in _neighbours(found)) else " "


def _neighbours(found: re.Match[str]) -> tuple[str, str]:
    """Return the characters before and after a match; empty at an end of the text."""
    text, start, end = found.string, found.start(), found.end()
    return text[start - 1 : start] if start else "", text[end : end + 1]


GROUP = "\u00a0"
"""Space between two digits that cannot be broken: it groups the digits of one number."""


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Return the plain form of one character, for kinds of which neighbours do not matter."""
    if character in _SIMPLE:
        return _SIMPLE[character]
    if character == GROUP:
        return character
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.decimal(character))
    kind, _, points = unicodedata.decomposition(character).rpartition("> ")
    if not kind or f"{kind}>" in _KEPT_KINDS or not _same_value(character, f"{kind}>"):
        return character
    parts = [chr(int(point, 16)) for point in points.split()]
    # A part may have a decomposition too, such as the exponent of a square metre.
    return "".join(f"^{p.translate(_SCRIPTS)}" if _SUPER.match(p) else _plain(p) for p in parts)


def _same_value(character: str, kind: str) -> bool:
    """Say whether the compatible form means the same: ℝ is not R, but a bold letter is."""
    point = ord(character)
    if kind == "<font>":
        return point in _MATHEMATICAL and point not in _DOUBLE_STRUCK
    # Forms with digits of their own, such as ⒈ and ㏵, would join digits beside them.
    folded = unicodedata.normalize("NFKC", character)
    return kind in ("<wide>", "<narrow>", "<square>") or not folded[:1].isdecimal()


def _joiners(found: re.Match[str]) -> str:
    """Keep joiners between two letters or emoji that are not ASCII."""
    matters = all(part and not part.isascii() and not part.isspace() for part in _neighbours(found))
    return found[0][0] if matters else ""


def _circled(found: re.Match[str]) -> str:
    """Replace a circled number or letter, unless it touches a letter or digit."""
    character = found[0]
    if any(part.isalnum() for part in _neighbours(found)):
        return character
    number = unicodedata.numeric(character, None)
    if number is not None:
        return str(int(number))
    if character >= "🅐":  # negative circled letters have no compatible form
        return unicodedata.name(character)[-1]
    return unicodedata.normalize("NFKC", character)


def _fraction(found: re.Match[str]) -> str:
    before, character, after = found.groups()
    if after:
        return found[0]
    numerator, denominator = unicodedata.normalize("NFKC", character).split("⁄")
    return f"{before}{' ' if before else ''}{numerator}/{denominator}"


def _slashed(found: re.Match[str]) -> str:
    before, _ = _neighbours(found)
    space = " " if before.isdecimal() else ""
    return f"{space}{found[1]}/{found[2]}".translate(_SCRIPTS)


def _subscript(found: re.Match[str]) -> str:
    """Write a subscript as plain digits after a letter (H₂O), else after `_` (a base, 101₂)."""
    before, after = _neighbours(found)
    mark = "" if (before.isalpha() or before == ")") and not after.isdecimal() else "_"
    return f"{mark}{found[0].translate(_SCRIPTS)}"
