"""Fields of a YAML text by their path, and the comments that describe them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of a document."""
Comments = Mapping[Path, tuple[str, ...]]
"""Path of a field -> the comment lines about it, without indentation."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_END = re.compile(r"[]}]*\s+(# .+)")


@functools.cache
def comments_in(text: str, *, in_table: bool = False) -> Comments:
    """Return the comments above fields, except those at the top, which describe the whole text.

    Args:
        text: a YAML document.
        in_table: whether comments at the ends of lines count too, and comments whose indentation is
            not that of the field do not, because they are about the lines before them.
    """
    lines = text.split("\n")
    found: dict[Path, tuple[str, ...]] = {}
    for number, path in fields_of(text):
        start = number
        mark = f"{_indent(lines[number])}#"
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            if in_table and not lines[start - 1].startswith(mark):
                break
            start -= 1
        if 0 < start < number:
            found[path] = tuple(line.strip() for line in lines[start:number])
    return {**found, **(_ends(text, lines, found) if in_table else {})}


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]


def _ends(text: str, lines: list[str], above: Comments) -> Comments:
    found: dict[Path, tuple[str, ...]] = {}
    for node, path in _scalars(yaml.compose(text, Loader=LOADER), ()):
        end = _END.fullmatch(lines[node.end_mark.line], node.end_mark.column)
        if end is not None:
            found[path] = (*above.get(path, ()), end[1])
    return found


def _scalars(node: yaml.Node | None, path: Path) -> Iterator[tuple[yaml.Node, Path]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _scalars(item, (*path, index))
    elif node is not None:
        yield node, path


def fields_of(text: str) -> Iterator[tuple[int, Path]]:
    """Yield the line of each field that begins a line, and its path, from top to bottom."""
    root = yaml.compose(text, Loader=LOADER)
    last = -1
    for number, path in _walk(root, ()):
        if number > last:  # of the fields that begin on one line, the outermost
            last = number
            yield number, path


def _walk(node: yaml.Node | None, path: Path) -> Iterator[tuple[int, Path]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.start_mark.line, (*path, key.value)
            yield from _walk(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield item.start_mark.line, (*path, index)
            yield from _walk(item, (*path, index))
