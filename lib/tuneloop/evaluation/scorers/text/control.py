"""Control tokens of chat models in texts of any model."""

from __future__ import annotations

import re

_NAMES = (
    "bos|eos|pad|unk|s|/s|start_of_turn|end_of_turn|turn|im_start|im_end|endoftext|eot_id|eom_id"
    "|end|return|begin_of_text|end_of_text|end▁of▁sentence|begin▁of▁sentence"
)
_TOKEN = re.compile(rf"<[|｜]?(?:{_NAMES})[|｜]?>")
_LONGEST = 24
"""Characters of the longest control token."""


def without_control_tokens(text: str) -> str:
    """Remove control tokens and white space at both ends of a text.

    A text of nothing but control tokens is returned unchanged: they are the answer then. Tokens
    inside the text are kept. Takes linear time.
    """
    if "<" not in text:
        return text
    begin, end = _skip_spaces(text, 0), len(text.rstrip())
    while found := _TOKEN.match(text, begin):
        begin = _skip_spaces(text, found.end())
    while end > begin and text[end - 1] == ">":
        start = text.rfind("<", max(begin, end - _LONGEST), end)
        if start < 0 or not _TOKEN.fullmatch(text, start, end):
            break
        end = start
        while end > begin and text[end - 1].isspace():
            end -= 1
    return text[begin:end] if begin < end else text


def _skip_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
