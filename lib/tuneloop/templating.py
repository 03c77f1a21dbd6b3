"""The Jinja environment that every page, picture and report is rendered with.

Templates lie beside the module that uses them and are named by their path inside the package. What
is filled into HTML and SVG is escaped; Markdown is not, its templates quote what they are given.
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
    """Return the environment, with filters for the templates of the caller.

    Args:
        filters: name -> function, on top of Jinja's own.
    """
    overlay = _environment().overlay()
    overlay.filters = {**overlay.filters, **filters}
    return overlay


def render(name: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        name: path of the template inside the package, such as `training/export/lengths.svg.j2`.
        values: what it asks for; a value that it lacks is an error.
    """
    return _environment().get_template(name).render(values)
