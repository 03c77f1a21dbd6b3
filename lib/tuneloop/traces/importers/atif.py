"""Import format `atif`: trajectories of agents in Harbor's interchange format, ATIF 1.0 to 1.8.

`{"schema_version": "ATIF-v1.8", "agent": {...}, "steps": [{"step_id": 1, "source": "user", ...}]}`

What a trace has no field for, such as timestamps, metrics and trajectories of subagents, is kept in
`meta.atif`, in the form of the trajectory without what became the trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import (
    EXTRAS,
    Chat,
    Message,
    as_list,
    json_text,
    objects,
    whole_trace,
    without_null,
)
from tuneloop.validation import shorten

ATIF = "atif"
"""Key of meta with what the trace does not hold."""
OWN: dict[str, Any] = {
    "schema_version": "ATIF-v1.8",
    "agent": {"name": "tuneloop", "version": "1"},
}
"""What tuneloop writes about a trajectory that it exports; it is not kept."""
_VERSION = re.compile(r"ATIF-v1\.[0-8]")
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}


def trace_of_trajectory(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a trajectory.

    Args:
        value: the trajectory. Results that follow the last message of the agent are kept in meta,
            because they have no answer.
        place: its location for error messages.

    Raises:
        DataError: the record is no trajectory of a known version, or holds images or audio.
    """
    record = without_null(value)
    (extra,) = objects([record.get("extra", {})], "extra", place)
    if (whole := whole_trace(extra, place)) is not None:
        return whole
    extras = extra.pop(EXTRAS, None)
    record = {**record, "extra": extra}
    if not extra:
        del record["extra"]
    version, agent, steps = (record.pop(key, None) for key in ("schema_version", "agent", "steps"))
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise DataError(
            f"{place}: schema_version is {shorten(version)}, expected ATIF-v1.0 to ATIF-v1.8; fix"
            " the file, or use another format"
        )
    if not isinstance(agent, dict) or not isinstance(steps, list):
        raise DataError(f"{place}: agent or steps is missing, expected both; fix the file")
    about, kept = without_null(agent), {}
    tools = about.pop("tool_definitions", [])
    chat = Chat({}, place)
    for number, step in enumerate(steps, start=1):
        messages, rest = _messages(step, f"{place}: step {number}")
        chat.add(messages, lambda message, where: (message, {}))
        if rest:
            kept[str(number)] = rest
    about_trajectory = {"schema_version": version, "agent": about, **record}
    if kept:
        about_trajectory["steps"] = kept
    if about_trajectory != OWN:
        chat.rest[ATIF] = about_trajectory
    if extras is not None:
        chat.rest[EXTRAS] = extras
    return chat.trace(as_list(tools, "tool_definitions", place))


def _messages(step: Any, place: str) -> tuple[list[Message], dict[str, Any]]:
    """Return the messages of a step, and what else it holds."""
    rest = without_null(step) if isinstance(step, dict) else {}
    role = _ROLES.get(str(rest.pop("source", None)))
    if role is None:
        raise DataError(
            f"{place}: found {shorten(step)}, expected a step with a source of"
            f" {', '.join(_ROLES)}; fix the file"
        )
    rest.pop("step_id", None)
    message: Message = {"role": role, "content": _text(rest.pop("message", ""), place)}
    if role != "assistant":
        if "observation" in rest:
            raise DataError(
                f"{place}: has an observation, expected one only after an action of the agent;"
                " remove the step"
            )
        return [message], rest
    if reasoning := rest.pop("reasoning_content", None):
        message["reasoning"] = reasoning
    extra: dict[str, Any] = {}
    if calls := objects(rest.pop("tool_calls", None), "tool_calls", place):
        message["tool_calls"] = [_call(call, extra, place) for call in calls]
    (seen,) = objects([rest.pop("observation", {})], "observation", place)
    results = objects(seen.get("results"), "results", place)
    found = [_result(result, number, extra, place) for number, result in enumerate(results)]
    return [message, *found], rest | extra


def _call(value: dict[str, Any], extra: dict[str, Any], place: str) -> Message:
    rest = dict(value)
    name, identifier = rest.pop("function_name", None), rest.pop("tool_call_id", None)
    arguments = rest.pop("arguments", None)
    if not isinstance(name, str) or not isinstance(identifier, str) or arguments is None:
        raise DataError(
            f"{place}: has the call {shorten(value)}, expected tool_call_id, function_name and"
            " arguments; fix the file"
        )
    if rest:
        extra.setdefault("tool_calls", {})[identifier] = rest
    return {"name": name, "arguments": json_text(arguments), "id": identifier}


def _result(value: dict[str, Any], number: int, extra: dict[str, Any], place: str) -> Message:
    rest = dict(value)
    made: Message = {"role": "tool", "content": _text(rest.pop("content", ""), place)}
    if (source := rest.pop("source_call_id", None)) is not None:
        made["tool_call_id"] = source
    if rest:
        extra.setdefault("results", {})[str(number)] = rest
    return made


def _text(message: Any, place: str) -> str:
    if isinstance(message, str):
        return message
    parts = message if isinstance(message, list) else [message]
    if not all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in parts):
        raise DataError(
            f"{place}: has the content {shorten(message)}, expected text, because a trace holds no"
            " images and no audio; remove the trajectory"
        )
    return "".join(each["text"] for each in parts)
