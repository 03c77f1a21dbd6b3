"""Check the nodes of a YAML file before values are made of them; every error names the line.

YAML 1.1, which libraries read, makes 8 of `010`, 90 of `1:30` and true of `yes`; YAML 1.2 makes
other values of them. Such spellings are refused, and so is all that JSON cannot express.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tuneloop.errors import SpecError
from tuneloop.validation import shorten

MAX_DEPTH = 100
"""Lists and mappings inside each other; libyaml overflows the stack at some thousands."""
MAX_DIGITS = 18
"""Digits of a whole number; 18 fit into 64 bits."""

_CORE = "tag:yaml.org,2002:"
_PLAIN_TEXT = ("timestamp", "value", "merge")
"""Tags of scalars that mean text here: `2026-01-01`, `=` and a value `<<`."""
_WORDS = re.compile(r"true|True|TRUE|false|False|FALSE")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OTHER_WHOLE = re.compile(r"[-+]?0[0-9]+|0o[0-7]+")
"""Text in YAML 1.1 and a number in 1.2, or an octal number of either."""
_REAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")


def check_depth(data: bytes, place: str, loader: Any) -> None:
    """Refuse very deep nesting, at which the composer would overflow the stack.

    Args:
        data: the file's bytes.
        place: path or URL of the file, used in error messages.
        loader: class of the loader that parses the file.

    Raises:
        SpecError: lists and mappings are nested too deeply.
        yaml.YAMLError: it is not YAML.
    """
    if sum(map(data.count, (b"[", b"{", b"-", b"?", b":"))) <= MAX_DEPTH:
        return  # each list and mapping begins with one of these
    depth = 0
    for event in yaml.parse(data, Loader=loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise SpecError(
                    f"{place}:{line}: has more than {MAX_DEPTH} lists and"
                    " mappings inside each other, expected fewer; remove some"
                )


def check_nodes(root: yaml.Node | None, place: str, *, is_kubernetes: bool) -> None:
    """Refuse keys, tags, numbers and words that are no plain value; make text of dates.

    Args:
        root: node of the whole file, which may hold the same node more than once.
        place: path or URL of the file, used in error messages.
        is_kubernetes: accept the spellings that kubectl reads, such as `defaultMode: 0400`.

    Raises:
        SpecError: such a node is found.
    """
    for node, is_key in _nodes(root):
        problem = _problem_of_key(node) if is_key else None
        problem = problem or _problem_of(node, is_kubernetes=is_kubernetes)
        if problem:
            raise SpecError(f"{place}:{node.start_mark.line + 1}: {problem}")


def _nodes(root: yaml.Node | None) -> Iterator[tuple[yaml.Node, bool]]:
    """Yield each node once, in the order of the file, and whether it is a key."""
    waiting, seen = ([(root, False)] if root else []), set()
    while waiting:
        node, is_key = waiting.pop()
        if id(node) in seen and not is_key:
            continue
        seen.add(id(node))
        yield node, is_key
        if isinstance(node, yaml.MappingNode):
            for key, value in reversed(node.value):
                waiting += [(value, False), (key, True)]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(each, False) for each in reversed(node.value)]


def _problem_of_key(node: yaml.Node) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        return (
            "found a list or mapping as a key, expected a name; if it is a template such as"
            " {{ name }}, fill it first, else quote the text"
        )
    if node.tag == f"{_CORE}merge" or node.tag == f"{_CORE}str":
        return None
    return f"found {shorten(node.value)} as a key, expected a name; quote it"


def _problem_of(node: yaml.Node, *, is_kubernetes: bool) -> str | None:
    kind = str(node.tag).removeprefix(_CORE)
    if not isinstance(node, yaml.ScalarNode):
        usual = "map" if isinstance(node, yaml.MappingNode) else "seq"
        return None if kind == usual else _tag(node)
    if kind in _PLAIN_TEXT and not node.style:
        if kind != "merge":  # a key `<<` keeps its meaning
            node.tag = f"{_CORE}str"
        return None
    found = shorten(node.value).strip("'\"")
    if kind == "int":
        digits = sum(map(str.isdigit, node.value))
        if digits > MAX_DIGITS:
            return f"found a number of {digits:,} digits, expected at most {MAX_DIGITS}; shorten it"
        if not is_kubernetes and not _WHOLE.fullmatch(node.value):
            return (
                f"found {found}, which YAML versions read differently, expected a decimal number;"
                " write it without leading zeros, colons and underscores, or quote the text"
            )
        return None if _is_number(node.value) else f"found {found}, expected a whole number; fix it"
    if kind == "float":
        if not _REAL.fullmatch(node.value) or not math.isfinite(float(node.value)):
            return f"found {found}, expected a finite decimal number; correct it, or quote the text"
        return None
    if kind == "bool":
        if _WORDS.fullmatch(node.value) or is_kubernetes:
            return None
        return (
            f"found {found}, which YAML versions read differently, expected true or false; write"
            " one of them, or quote the text"
        )
    if (
        kind == "str"
        and not node.style
        and not is_kubernetes
        and _OTHER_WHOLE.fullmatch(node.value)
    ):
        return (
            f"found {found}, which YAML versions read differently, expected a decimal number; write"
            " it without leading zeros, or quote the text"
        )
    return None if kind in ("str", "null") else _tag(node)


def _is_number(text: str) -> bool:
    """Whether YAML 1.1 reads the text as a whole number, perhaps with another base."""
    loader: Any = yaml.SafeLoader("")
    return bool(loader.resolve(yaml.ScalarNode, text, (True, False)) == f"{_CORE}int")


def _tag(node: yaml.Node) -> str:
    tag = str(node.tag)
    shown = f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
    return f"found the tag {shorten(shown)}, expected plain values; remove the tag"
