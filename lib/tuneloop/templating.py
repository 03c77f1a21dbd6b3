"""The Jinja environment that renders every page, picture and report.

A template is stored next to the module that uses it and is named by its path inside the package.
Values are escaped in HTML and SVG. They are not escaped in Markdown, so Markdown templates quote
their values themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tuneloop", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
    )


def environment(**filters: Callable[..., Any]) -> jinja2.Environment:
    """Return the environment with additional filters for the caller's templates.

    Args:
        filters: filter name -> function, in addition to Jinja's built-in filters.
    """
    overlay = _environment().overlay()
    overlay.filters = {**overlay.filters, **filters}
    return overlay


def render(name: str, **values: Any) -> str:
    """Render a template.

    Args:
        name: path of the template inside the package, such as `training/export/lengths.svg.j2`.
        values: variables of the template; using a variable that is not given is an error.
    """
    return _environment().get_template(name).render(values)
