"""Check credentials that come from variables and files; no message ever shows one."""

from __future__ import annotations

import re
from pathlib import Path

from tuneloop.errors import UsageError

MAX_CHARACTERS = 16_384
"""Longest credential. Tokens of clouds have some thousands of characters, and web servers accept
about this much in a header."""
_PRINTABLE = re.compile(r"[!-~]+")


def clean(text: str | None, place: str) -> str | None:
    """Return a credential without the line end of its file; None if there is none.

    Args:
        text: content of a variable or a file; None if it is not there.
        place: name of the variable or path of the file, for the error.

    Raises:
        UsageError: the text cannot be a token or a URL.
    """
    found = (text or "").strip()
    if len(found) > MAX_CHARACTERS:
        raise UsageError(
            f"{place}: has {len(found):,} characters, expected one token or URL of at most"
            f" {MAX_CHARACTERS:,}; check that it is the right file"
        )
    if found and not _PRINTABLE.fullmatch(found):
        raise UsageError(
            f"{place}: has {_what_is_wrong(found)}, expected one token or URL; copy it again"
        )
    return found or None


def read(path: Path) -> str | None:
    """Return the credential in a file; None if the file does not exist or is empty.

    Raises:
        UsageError: the file cannot be read, or its content cannot be a token or a URL.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UsageError(
            f"{path}: cannot be read ({e.strerror}), expected a file with a token; correct the path"
            " or its rights"
        ) from e
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause, which holds the content.
        raise UsageError(
            f"{path}: is not text in UTF-8, expected one token; check that it is the right file"
        ) from None
    return clean(text, str(path))


def _what_is_wrong(text: str) -> str:
    """Describe the first character that no token has, without the text around it."""
    char = next(char for char in text if not "!" <= char <= "~")
    if char in "\r\n":
        return "several lines"
    if char in " \t":
        return "a space"
    return "a control character" if char < " " or char == "\x7f" else "a character beyond ASCII"
