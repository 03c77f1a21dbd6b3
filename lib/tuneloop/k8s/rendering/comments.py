"""Carry the comments of the templates into rendered YAML.

A comment in a template states the reason of the field below it. Filling a template keeps only
values, so the comments are read separately, by the path of the field, and written above the same
path. They are whole lines above keys and list items, so they cannot change a value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tuneloop.k8s.rendering.render import Object, Templates
from tuneloop.k8s.rendering.templates import Template
from tuneloop.k8s.rendering.yaml_out import dump

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of a document."""
Comments = Mapping[Path, tuple[str, ...]]
"""Path of a field -> the comment lines above it, without indentation."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_POD: Path = ("spec", "template")
_GANG_POD: Path = ("spec", "replicatedJobs", 0, "template", "spec", "template")


def dump_commented(documents: list[Object], templates: Templates) -> str:
    """Write documents as `dump` does, with the comments of their templates."""
    return "---\n".join(_commented(each, _comments_of(each, templates)) for each in documents)


def _comments_of(document: Object, templates: Templates) -> Comments:
    kind = document["kind"]
    if kind == "Job":
        return {**_read(templates.job), **_below(_POD, _read(templates.pod))}
    if kind == "JobSet":
        return {**_read(templates.jobset), **_below(_GANG_POD, _read(templates.pod))}
    if kind == "ConfigMap":
        keys = document.get("binaryData", {}).keys()
        templates_by_data = (templates.submission, templates.sweep)
        fitting = [each for each in templates_by_data if each.content["binaryData"].keys() == keys]
        return _read(fitting[0] if fitting else templates.config_map)
    accounts = _read(templates.submitter)
    kinds = [item["kind"] for item in templates.submitter.content["items"]]
    if kind not in kinds:
        return {}
    prefix = ("items", kinds.index(kind))
    return {path[2:]: lines for path, lines in accounts.items() if path[:2] == prefix}


def _below(prefix: Path, comments: Comments) -> Comments:
    return {(*prefix, *path): lines for path, lines in comments.items()}


def _read(template: Template) -> Comments:
    return _comments_in(template.text)


@functools.cache
def _comments_in(text: str) -> Comments:
    """Return the comments of a template, except those at its top, which describe the template."""
    lines = text.split("\n")
    found: dict[Path, tuple[str, ...]] = {}
    for number, path in _fields(text):
        start = number
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        if 0 < start < number:
            found[path] = tuple(line.strip() for line in lines[start:number])
    return found


def _commented(document: Object, comments: Comments) -> str:
    text = dump([document])
    lines = text.splitlines(keepends=True)
    for number, path in reversed(list(_fields(text))):
        line = lines[number]
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines[number:number] = [f"{indent}{comment}\n" for comment in comments.get(path, ())]
    return "".join(lines)


def _fields(text: str) -> Iterator[tuple[int, Path]]:
    """Yield the line of each field that begins a line, and its path, from top to bottom."""
    root = yaml.compose(text, Loader=_Loader)
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
