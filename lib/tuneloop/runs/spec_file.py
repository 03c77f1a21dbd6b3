"""Run specs as people write them: YAML, typed, every error with its line."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from tuneloop import storage
from tuneloop.errors import SpecError, UsageError
from tuneloop.specs import RunSpec
from tuneloop.validation import first_error


def load_run_spec(url: str) -> RunSpec:
    """Read and validate a run spec.

    Raises:
        UsageError: there is no such file.
        SpecError: it is not YAML, a key is unknown, given twice or missing, or a value is wrong.
    """
    try:
        text = storage.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a run spec; check the path") from e
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(root, url)
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        # Where the broken construct begins, rather than where the reader gave up.
        mark = getattr(e, "context_mark", None) or getattr(e, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(e, "problem", None) or getattr(e, "reason", "unreadable")
        raise SpecError(f"{url}:{line}: broken YAML ({problem}); mend the line") from e
    if not isinstance(value, dict):
        raise SpecError(f"{url}:1: found {type(value).__name__}, expected keys of a run spec")
    try:
        return RunSpec.model_validate(value)
    except ValidationError as e:
        line = _line_of(root, e.errors()[0]["loc"])
        raise SpecError(f"{url}:{line}: {first_error(e)}; mend the spec") from e


def _refuse_twice(node: yaml.Node | None, url: str) -> None:
    """YAML readers take the last of two equal keys without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SpecError(f"{url}:{line}: key {key.value!r} is given twice; remove one")
            seen.add(key.value)
            _refuse_twice(child, url)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_twice(child, url)


def _line_of(node: yaml.Node | None, path: tuple[Any, ...]) -> int:
    """Line of the deepest key on the path that stands in the file, from 1."""
    line = node.start_mark.line + 1 if node else 1
    for part in path:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
