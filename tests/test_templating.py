from __future__ import annotations

import jinja2
import pytest

from tuneloop import templating


def from_source(name: str, source: str) -> jinja2.Template:
    """Compile a template with this name and the environment's settings."""
    environment = templating.environment(shout=str.upper)
    environment.loader = jinja2.DictLoader({name: source})
    return environment.get_template(name)


@pytest.mark.parametrize(("name", "text"), [("a.html.j2", "&lt;B&gt;\n"), ("a.md.j2", "<B>\n")])
def test_markup_is_escaped_and_markdown_is_not(name: str, text: str) -> None:
    assert from_source(name, "{{ value | shout }}\n").render(value="<b>") == text


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'value' is undefined"):
        from_source("a.md.j2", "{{ value }}").render()


def test_filters_of_one_caller_are_not_anothers() -> None:
    templating.environment(shout=str.upper)
    assert "shout" not in templating.environment().filters
