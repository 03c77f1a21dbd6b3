"""Read the options of a conversion from the command line."""

from __future__ import annotations

from pydantic import ValidationError

from tuneloop.errors import UsageError
from tuneloop.evaluation.sets.converters.formats import CONVERTERS
from tuneloop.evaluation.sets.converters.schema import Options
from tuneloop.evaluation.sets.schema import SetHeader
from tuneloop.storage.rows.columns import parse_columns
from tuneloop.validation import first_error


def make_options(
    kind: str,
    *,
    category: str | None,
    category_from: str | None,
    columns: str | None,
    answer_after: str | None,
    system: str,
) -> Options:
    """Make the options of a conversion.

    Raises:
        UsageError: one of them has a wrong value.
    """
    if kind not in CONVERTERS:
        known = ", ".join(CONVERTERS)
        raise UsageError(f"--from {kind}: unknown, expected one of {known}")
    if system not in ("drop", "prepend"):
        raise UsageError(f"--system {system}: unknown, expected drop or prepend")
    if answer_after == "":
        raise UsageError("--answer-after: is empty, expected a mark such as '####'")
    return Options(
        category=category,
        category_from=category_from,
        columns=parse_columns([columns] if columns else ()),
        answer_after=answer_after,
        system="prepend" if system == "prepend" else "drop",
    )


def make_header(name: str | None, version: str | None) -> SetHeader | None:
    """Make the line that names a set; None without both.

    Raises:
        UsageError: one of the two is missing or has other characters.
    """
    if name is None and version is None:
        return None
    try:
        return SetHeader.model_validate(
            {k: v for k, v in (("name", name), ("version", version)) if v is not None}
        )
    except ValidationError as e:
        raise UsageError(
            f"--name and --set-version: {first_error(e)}; give both, of letters, digits and ._-"
        ) from e
