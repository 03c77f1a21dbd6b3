"""A position in the list of traces, as opaque text for clients."""

from __future__ import annotations

import base64
import re
from datetime import datetime

from tuneloop.store.db.tables import micros, moment

Cursor = tuple[datetime, int]
"""`created_at` and `seq` of a trace."""

_TEXT = re.compile(r"t(\d{1,18})\.(\d{1,18})")
"""The decoded form of a cursor. The leading `t` allows other kinds of cursors later."""


def write_cursor(place: Cursor) -> str:
    """Encode a position as text that needs no escaping in a URL."""
    text = f"t{micros(place[0])}.{place[1]}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Decode a cursor.

    Raises:
        ValueError: the text is not a cursor from `write_cursor`.
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    found = _TEXT.fullmatch(data.decode("ascii"))
    if found is None:
        raise ValueError(text)
    try:
        return moment(int(found[1])), int(found[2])
    except OverflowError as e:
        raise ValueError(text) from e
