"""The option `--columns`, which names the columns of a file that hold known keys."""

from __future__ import annotations

from collections.abc import Iterable

from tuneloop.errors import UsageError


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """Parse `prompt=question,completion=answer`.

    Args:
        texts: values of the option, which may be given several times.

    Returns:
        Known key -> column of the file.

    Raises:
        UsageError: a part has no column, or a key is given twice.
    """
    found: dict[str, str] = {}
    for part in (part for text in texts for part in text.split(",")):
        key, equals, column = part.partition("=")
        key, column = key.strip(), column.strip()
        if not (equals and key and column) or key in found:
            raise UsageError(
                f"--columns {part}: expected each key once, with its column, such as"
                " prompt=question,expected_answer=answer"
            )
        found[key] = column
    return found
