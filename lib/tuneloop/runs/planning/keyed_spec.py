"""Read the spec of several runs: a run spec with one more key at the top, `sweep` or `rounds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tuneloop.errors import SpecError, UsageError
from tuneloop.specs.base import Spec
from tuneloop.storage import files
from tuneloop.unknown_keys import unknown_key
from tuneloop.validation import all_errors, path_of
from tuneloop.yaml_in import line_of, parse_mapping

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class KeyedSpec:
    """A spec file that has the key."""

    url: str
    key: str
    asked: Any
    """Value of the key, not validated."""
    base: dict[str, Any]
    """The other keys, those of a run spec; not validated."""
    root: yaml.Node
    """The whole file with its lines."""

    def line(self, *path: str | int) -> int:
        """Return the line of a value below the key."""
        return line_of(self.root, (self.key, *path))

    def settings(self, model: type[S]) -> S:
        """Validate the value of the key.

        Raises:
            SpecError: it is invalid; the message names the line.
        """
        try:
            return model.model_validate(self.asked)
        except ValidationError as e:
            # A misspelt key causes two errors, missing and unknown. The unknown one is in the file.
            errors = e.errors()
            at = next((i for i, d in enumerate(errors) if d["type"] == "extra_forbidden"), 0)
            path = path_of(errors[at], self.asked)
            problem = all_errors(e, self.asked)[at]
            if errors[at]["type"] == "extra_forbidden":
                problem = unknown_key(model, path, self.asked)
            raise SpecError(
                f"{self.url}:{self.line(*path)}: {self.key}: {problem}; fix the line"
            ) from e


def read_keyed_spec(url: str, key: str) -> KeyedSpec | None:
    """Read a spec file; return None if it has no such key, or is no YAML mapping at all.

    Raises:
        UsageError: there is no such file.
        SpecError: the file is not YAML, or has a key twice.
    """
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a run spec; check the path") from e
    if key.encode() not in data:
        return None
    base, root = parse_mapping(data, url, "keys of a run spec")
    if key not in base:
        return None
    asked = base.pop(key)
    return KeyedSpec(url, key, asked, base, root)
