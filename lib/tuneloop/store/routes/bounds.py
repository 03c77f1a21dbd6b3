"""Bounds on what a request asks of the database, the same for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError

from tuneloop.datasets.pointer import pointer_tokens
from tuneloop.settings.limits import Limits, advice


async def check_query(request: Request) -> None:
    """Refuse a query with NUL, which PostgreSQL cannot store, or with a very long value."""
    limits: Limits = request.app.state.service.limits
    for name, value in request.query_params.multi_items():
        if "\x00" in value or "\x00" in name:
            raise _invalid(name.replace("\x00", ""), "holds a NUL character; remove it")
        if len(value) > limits.query_characters:
            raise _invalid(
                name,
                f"has {len(value)} characters, at most {limits.query_characters} are allowed;"
                f" {advice('query_characters')}",
            )


def _invalid(name: str, words: str) -> RequestValidationError:
    fault = {"type": "value_error", "loc": ("query", name), "msg": words, "input": None}
    return RequestValidationError([fault])


def check_filters(paths: Iterable[str], limits: Limits) -> None:
    """Refuse filters that would take a database too long.

    Args:
        paths: the paths of a build request's filters.
        limits: limits of the store.
    """
    paths = list(paths)
    if len(paths) > limits.filters:
        raise _too_many("filters", f"{len(paths)} filters", limits.filters, "filters")
    for path in paths:
        shown = f"filters: the path {path[:60]!r}"
        if len(path) > limits.filter_characters:
            said = f"{shown} has {len(path)} characters"
            raise _too_many(said, "", limits.filter_characters, "filter_characters")
        parts = len(pointer_tokens(path))
        if parts > limits.filter_parts:
            raise _too_many(f"{shown} has {parts} parts", "", limits.filter_parts, "filter_parts")


def _too_many(place: str, found: str, limit: int, field: str) -> HTTPException:
    said = f"{place}: found {found}" if found else place
    return HTTPException(422, f"{said}, at most {limit} are allowed; {advice(field)}")
