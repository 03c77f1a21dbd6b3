"""Comments of the accelerator table for the fields that come from it.

The table is merged from several levels before it is rendered, so a rendered field is matched with
an entry of the table by section, key and value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tuneloop.k8s.rendering.render import Object
from tuneloop.k8s.rendering.yaml_fields import LOADER, Comments, Path, comments_in

_PLACEHOLDER = re.compile(r"\\\$\\\{\w+\\\}")
_SECTIONS = ("node_selector", "env", "tolerations", "pod_annotations", "jobset_annotations")
_SINGLE = ("dev_shm_size", "termination_grace_period_seconds")
_SECTION_NAMES = frozenset((*_SECTIONS, *_SINGLE))


@dataclass(frozen=True)
class _Reason:
    """A commented entry of the table."""

    section: str
    key: str
    value: re.Pattern[str]
    lines: tuple[str, ...]


def comments_for(document: Object, pod: Path, table: str) -> Comments:
    """Return the table's comments for a workload.

    Args:
        document: a rendered Job or JobSet.
        pod: path of its pod template.
        table: text of the accelerator table.
    """
    reasons = _reasons(table)
    found: dict[Path, tuple[str, ...]] = {}
    for section, key, value, path in _entries(document, pod):
        fitting = [
            reason.lines
            for reason in reasons
            if (reason.section, reason.key) == (section, key) and reason.value.fullmatch(value)
        ]
        if fitting:  # two families with the same setting: one refers to the other's reason
            found[path] = max(fitting, key=lambda lines: len("".join(lines)))
    return found


def _entries(document: Object, pod: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Yield what a rendered workload has from the table: section, key, value, path."""
    template: Any = document
    for step in pod:
        template = template[step]
    spec, at = template["spec"], (*pod, "spec")
    for key, value in spec.get("nodeSelector", {}).items():
        yield "node_selector", key, value, (*at, "nodeSelector", key)
    for index, each in enumerate(spec["containers"][0].get("env", ())):
        path = (*at, "containers", 0, "env", index)
        yield "env", each["name"], str(each.get("value", "")), path
    for index, each in enumerate(spec.get("tolerations", ())):
        yield "tolerations", each["key"], each.get("value", ""), (*at, "tolerations", index)
    for key, value in template["metadata"].get("annotations", {}).items():
        yield "pod_annotations", key, value, (*pod, "metadata", "annotations", key)
    for key, value in document["metadata"].get("annotations", {}).items():
        yield "jobset_annotations", key, value, ("metadata", "annotations", key)
    for index, each in enumerate(spec.get("volumes", ())):
        limit = each.get("emptyDir", {}).get("sizeLimit")
        if limit is not None:
            yield "dev_shm_size", "", limit, (*at, "volumes", index)
    seconds = str(spec.get("terminationGracePeriodSeconds", ""))
    field = "terminationGracePeriodSeconds"
    yield "termination_grace_period_seconds", "", seconds, (*at, field)


@functools.cache
def _reasons(table: str) -> tuple[_Reason, ...]:
    content = yaml.load(table, Loader=LOADER)
    found = []
    for path, lines in comments_in(table, in_table=True).items():
        place = _place(content, path)
        if place is not None:
            section, key, value = place
            pattern = re.compile(_PLACEHOLDER.sub(".+", re.escape(value)))
            found.append(_Reason(section, key, pattern, lines))
    return tuple(found)


def _place(content: Any, path: Path) -> tuple[str, str, str] | None:
    """Return section, key and value of the entry that a comment is about; None if it is none."""
    value = content
    for step in path:
        value = value[step]
    steps = list(path)
    while not _SECTION_NAMES.intersection(map(str, steps)):
        # A comment above a level is about its first setting.
        if not isinstance(value, dict) or not value:
            return None
        first = next(iter(value))
        if first not in _SECTION_NAMES:
            return None
        steps.append(first)
        value = value[first]
    section = next(str(step) for step in steps if step in _SECTION_NAMES)
    if isinstance(value, dict) and section != "tolerations":
        key, value = next(iter(value.items()))
        return section, key, str(value)
    if isinstance(value, list):
        value = value[0]
    if section == "tolerations":
        return section, value["key"], str(value.get("value", ""))
    return section, "" if section in _SINGLE else str(steps[-1]), str(value)
