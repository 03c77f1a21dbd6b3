"""The chat template that a model brings: Jinja source, rendered in a sandbox.

A template is code from outside. It sees the conversation and nothing else, may not loop without
end, and gives the same text on every day.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser

from tuneloop.errors import DataError
from tuneloop.training.text.layout import Message, Tool
from tuneloop.training.text.tokenizers import TOKENIZER_CONFIG, encodable, parse_json_object

TEMPLATE_FILE = "chat_template.jinja"
TODAY = datetime.date(2024, 7, 26)
"""The date that every template sees: the default of Llama 3.1's own template."""
MAX_ITERATIONS = 100_000
"""Loop iterations of one rendering, over all loops together."""


class JinjaTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], place: str) -> None:
        """Compile a template.

        Args:
            source: the template.
            special_tokens: variables of the template, such as `bos_token`.
            place: location of the template for error messages.

        Raises:
            DataError: the source is not a Jinja template.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self.place = place
        try:
            self._template = _compiled(source)
        except jinja2.TemplateError as e:
            raise DataError(
                f"{place}: not a Jinja template ({e}); get the model's chat template again"
            ) from e

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        thinking: bool,
        tools: Sequence[Tool] = (),
    ) -> str:
        """Render a conversation.

        Args:
            messages: the turns in order.
            generation_prompt: whether to add the beginning of the model's turn.
            thinking: value of the variable `enable_thinking`, which thinking models know.
            tools: definitions of the tools; many templates ignore them.

        Raises:
            DataError: the template fails, or refuses the conversation.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=generation_prompt,
                enable_thinking=thinking,
                tools=list(tools) or None,  # as transformers: templates ask for none
                documents=None,
                date_string=TODAY.strftime("%d %b %Y"),
                _iterations=_Iterations(),
                **self._special_tokens,
            )
        except Exception as e:  # a template can fail in any way that Python code can
            detail = str(e) or type(e).__name__
            raise DataError(
                f"{self.place}: the chat template fails for {_described(messages)} ({detail});"
                " use a model whose template allows this"
            ) from e


def find_template(files: Mapping[str, bytes], place: str) -> tuple[str, str] | None:
    """Find the chat template among a model's files.

    Args:
        files: contents by name.
        place: folder of the files, for error messages.

    Returns:
        The template's source and its location; None if the model has no chat template.

    Raises:
        DataError: a file is not valid, or there are several templates and none is the default.
    """
    if TEMPLATE_FILE in files:
        found = f"{place}/{TEMPLATE_FILE}"
        try:
            return files[TEMPLATE_FILE].decode("utf-8"), found
        except UnicodeDecodeError as e:
            raise DataError(f"{found}: not UTF-8 ({e}); get the file again") from e
    for name in (TOKENIZER_CONFIG, "chat_template.json"):
        if name not in files:
            continue
        listed = parse_json_object(files[name], f"{place}/{name}").get("chat_template")
        if listed:
            return _default_template(listed, f"{place}/{name}"), f"{place}/{name}"
    return None


def _default_template(listed: Any, place: str) -> str:
    """Return the template itself, or of several named ones that with the name `default`."""
    if isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        listed = {str(each.get("name")): each.get("template") for each in listed}
    if isinstance(listed, dict):
        if "default" not in listed:
            names = ", ".join(sorted(listed)) or "none"
            raise DataError(
                f"{place}: chat_template has the templates {names}, expected one with the name"
                " default; add it"
            )
        listed = listed["default"]
    if not isinstance(listed, str):
        raise DataError(
            f"{place}: chat_template is {type(listed).__name__}, expected text, or a list of named"
            " templates; get the file again"
        )
    return encodable(listed)


def _described(messages: Sequence[Message]) -> str:
    return f"a conversation of {', '.join(message['role'] for message in messages)}"


class _Iterations:
    """Counts the loop iterations of one rendering."""

    def __init__(self) -> None:
        self._left = MAX_ITERATIONS

    def take(self, iterable: Iterable[Any]) -> list[Any]:
        """Return the items to iterate over; raises if the rendering has used up its iterations."""
        items = []
        for item in iterable:
            self._left -= 1
            if self._left < 0:
                raise SecurityError(f"more than {MAX_ITERATIONS} loop iterations")
            items.append(item)
        return items


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose loops end."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        return tree


class _GenerationTag(ext.Extension):
    """Render the body of `{% generation %}`, which marks the text of answers, as it stands."""

    tags: set[str] = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the tag and its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    # The same settings and functions as transformers has; templates are written for these.
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.filters["_counted"] = _counted
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(source)


@jinja2.pass_context
def _counted(context: jinja2.runtime.Context, iterable: Iterable[Any]) -> list[Any]:
    iterations: Any = context.resolve("_iterations")
    items: list[Any] = iterations.take(iterable)
    return items


def _raise_exception(message: str) -> Callable[..., Any]:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Dump as JSON; Jinja's own filter would escape `<`, `>` and `&`."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
