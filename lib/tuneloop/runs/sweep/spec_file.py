"""Read a run spec with the key `sweep`, and validate every member before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from tuneloop.errors import SpecError
from tuneloop.runs.planning.keyed_spec import read_keyed_spec
from tuneloop.runs.planning.spec_file import check_shard_counts
from tuneloop.runs.sweep.expand import Variant, apply, expand
from tuneloop.specs.renamed_keys import RENAMED_KEYS, RENAMED_KINDS
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sweep import SweepSpec
from tuneloop.unknown_keys import unknown_key
from tuneloop.validation import all_errors, path_of
from tuneloop.yaml_in import line_of, validate

KEY = "sweep"


@dataclass(frozen=True)
class SweepFile:
    """A sweep and the validated specs of its members."""

    settings: SweepSpec
    members: tuple[tuple[Variant, RunSpec], ...]
    """In the order in which they run."""

    @property
    def name(self) -> str:
        """Name of the first member's runs, and the first part of the sweep's id."""
        return self.members[0][1].name


def load_sweep_file(url: str) -> SweepFile | None:
    """Read a spec; return None if it has no key `sweep`, or is no YAML mapping at all.

    Raises:
        UsageError: there is no such file.
        SpecError: the sweep or a member is invalid; the message names the line and the member.
    """
    found = read_keyed_spec(url, KEY)
    if found is None:
        return None
    settings = found.settings(SweepSpec)
    base, root = found.base, found.root
    variants = expand(settings, f"{url}:{found.line()}")
    return SweepFile(
        settings, tuple((each, _member(each, base, settings, root, url)) for each in variants)
    )


def _member(
    variant: Variant, base: Mapping[str, Any], settings: SweepSpec, root: yaml.Node, url: str
) -> RunSpec:
    title = f"member {variant.number} of the sweep ({variant.label})"
    try:
        value = apply(base, variant.values)
    except SpecError as e:
        line = _line_of_value(root, settings, variant, str(e).split(" ", 1)[0])
        raise SpecError(f"{url}:{line}: {title}: {e}") from e
    try:
        spec = RunSpec.model_validate(value)
    except ValidationError as e:
        path, problem = _blamed(e, value, variant)
        if path is None:  # not about a value of the sweep: the same error as without it
            validate(RunSpec, value, root, url, RENAMED_KEYS, RENAMED_KINDS)
        line = _line_of_value(root, settings, variant, path or "")
        raise SpecError(f"{url}:{line}: {title}: {problem}; fix the sweep") from e
    check_shard_counts(spec, url)
    if settings.early_stop is not None and spec.train.validation is None:
        raise SpecError(
            f"{url}:{line_of(root, (KEY, 'early_stop'))}: sweep.early_stop needs a validation loss,"
            f" but {title} has no train.validation; add it, or remove sweep.early_stop"
        )
    return spec


def _blamed(e: ValidationError, value: Any, variant: Variant) -> tuple[str | None, str]:
    """Return the path of the member's value that an error is about; None if it is about others."""
    texts = [
        unknown_key(RunSpec, path_of(found, value), value)
        if found["type"] == "extra_forbidden"
        else text
        for found, text in zip(e.errors(), all_errors(e, value), strict=True)
    ]
    for details, text in zip(e.errors(), texts, strict=True):
        found = ".".join(map(str, path_of(details, value)))
        for path in variant.values:
            # An error about a group of fields can be caused by any of its fields.
            if f"{found}.".startswith(f"{path}.") or f"{path}.".startswith(
                f"{found}." if found else ""
            ):
                return path, text
    return None, texts[0]


def _line_of_value(root: yaml.Node, settings: SweepSpec, variant: Variant, path: str) -> int:
    """Return the line of a field in the sweep."""
    if settings.members is not None:
        return line_of(root, (KEY, "list", variant.number - 1, path))
    return line_of(root, (KEY, "grid", path))
