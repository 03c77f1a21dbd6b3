"""Replace credentials in log lines, before a line reaches stderr, log.txt or the archive."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

REDACTED = "[redacted]"
MIN_CHARACTERS = 8
"""Shorter values of variables are words that logs may contain, such as `true`."""

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(?:^|_)KEY(?:_|$)")
_PLACE_NAME = re.compile(r"_(?:FILE|PATH|FOLDER|DIR|URI)$")
_URL_NAME = re.compile(r"_URL$")
_CREDENTIAL_IN_URL = re.compile(r"://[^/\s@]+@|[?]")
_PATTERNS = (
    # A header, also in the repr of a mapping.
    re.compile(r"""(?i)(\bauthorization["']?\s*[:=]\s*["']?(?:[a-z]+\s+)?)[^\s"',;]+"""),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"),
    # The password of a URL.
    re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)"),
    # Signed URLs, and tokens in queries.
    re.compile(
        r"(?i)([?&](?:[\w.-]*(?:token|signature|secret|password|credential)|api_?key|key|sig)=)"
        r"""[^&\s"'#]+"""
    ),
)


class Redactor:
    """Knows the secrets of one process."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Collect the values of variables that hold a secret, by their names."""
        values = sorted(set(_secrets(env)), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, values))) if values else None

    def __call__(self, text: str) -> str:
        """Return a text without credentials."""
        if self._values is not None:
            text = self._values.sub(REDACTED, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{REDACTED}", text)
        return text


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without credentials."""

    def __init__(self, form: str, env: Mapping[str, str] = os.environ) -> None:
        """Collect the secrets of a process from its environment."""
        super().__init__(form)
        self._redact = Redactor(env)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines of a record."""
        return self._redact(super().format(record))


def _secrets(env: Mapping[str, str]) -> Iterator[str]:
    for name, value in env.items():
        upper, text = name.upper(), value.strip()
        if _URL_NAME.search(upper):
            is_secret = _CREDENTIAL_IN_URL.search(text) is not None or "WEBHOOK" in upper
        else:
            is_secret = bool(_SECRET_NAME.search(upper)) and not _PLACE_NAME.search(upper)
        # Keys in PEM or JSON have several lines, and a log holds one of them or all.
        for line in text.splitlines() if is_secret else ():
            found = line.strip()
            if len(found) >= MIN_CHARACTERS and not os.path.exists(found):
                yield from (found, quote(found, safe=""))
