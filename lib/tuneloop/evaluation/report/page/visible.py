"""Make every character of untrusted text visible, and harmless in HTML and SVG."""

from __future__ import annotations

import re

_SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
# C1 controls, overrides and isolates of direction, lone surrogates, and code points that HTML and
# XML do not allow. They are spelled out: a report must show that they are there.
_ODD = re.compile(
    "[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Replace control characters by symbols, and characters that reorder text by their names."""
    text = text.replace("\r\n", "\n").translate(_SYMBOLS)
    return _ODD.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def line(text: str, length: int) -> str:
    """Shorten a text to one line."""
    shown = visible(" ".join(text[: 4 * length].split()))
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
