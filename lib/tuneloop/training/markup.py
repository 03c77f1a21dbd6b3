"""HTML and SVG from the templates beside this file; what is filled in can never become markup."""

from __future__ import annotations

from typing import Any

import jinja2


def fill(name: str, **values: Any) -> str:
    """Fill in a template; a value that it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuneloop.training", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    return environment.get_template(name).render(values)
