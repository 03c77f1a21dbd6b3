"""Export format `atif`: trajectories of Harbor's Agent Trajectory Interchange Format 1.8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tuneloop.traces.exporters.chat import conversation, with_ids
from tuneloop.traces.exporters.extras import extras_of
from tuneloop.traces.importers.atif import ATIF, OWN, trace_of_trajectory
from tuneloop.traces.importers.chat import EXTRAS

_AGENT = OWN["agent"]
_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}


def atif_record(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a trace to a trajectory.

    What the importer has kept in `meta.atif` returns to its place. What ATIF has no field for is in
    `extra.tuneloop`, which the importer reads.
    """
    record = _record(trace)
    extras = extras_of(trace, record, trace_of_trajectory)
    if extras:
        record["extra"] = {**(record.get("extra") or {}), EXTRAS: extras}
    return record


def _record(trace: Mapping[str, Any]) -> dict[str, Any]:
    kept = (trace.get("meta") or {}).get(ATIF)
    kept = dict(kept) if isinstance(kept, dict) else {}
    agent, extra_steps = kept.pop("agent", None), kept.pop("steps", None)
    version = kept.pop("schema_version", OWN["schema_version"])
    about = dict(agent) if isinstance(agent, dict) and _AGENT.keys() <= agent.keys() else {**_AGENT}
    if trace.get("tools"):
        about["tool_definitions"] = trace["tools"]
    extra_steps = extra_steps if isinstance(extra_steps, dict) else {}
    steps: list[dict[str, Any]] = []
    for message in with_ids([*_system(trace), *conversation(trace)]):
        if message["role"] == "tool":
            _add_result(steps, message)
        else:
            steps.append(_step(message))
    for number, step in enumerate(steps, start=1):
        step["step_id"] = number
        _restore(step, extra_steps.get(str(number)))
    return {"schema_version": version, "agent": about, "steps": steps, **kept}


def _system(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": trace["system"]}] if trace.get("system") else []


def _step(message: Mapping[str, Any]) -> dict[str, Any]:
    made = {"source": _SOURCES[message["role"]], "message": message["content"]}
    if message.get("reasoning"):
        made["reasoning_content"] = message["reasoning"]
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {
                "tool_call_id": call["id"],
                "function_name": call["name"],
                "arguments": _arguments(call["arguments"]),
            }
            for call in message["tool_calls"]
        ]
    return made


def _arguments(text: str) -> dict[str, Any]:
    """Return arguments as an object, which ATIF demands; other values are in one of its keys."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"arguments": value}


def _add_result(steps: list[dict[str, Any]], message: Mapping[str, Any]) -> None:
    """Add the result of a tool to the step of the agent that called it."""
    if not steps or steps[-1]["source"] != "agent":
        steps.append({"source": "agent", "message": ""})
    step = steps[-1]
    result = {"content": message["content"]}
    calls = {call["tool_call_id"] for call in step.get("tool_calls", ())}
    if message.get("tool_call_id") in calls:
        result["source_call_id"] = message["tool_call_id"]
    step.setdefault("observation", {"results": []})["results"].append(result)


def _restore(step: dict[str, Any], kept: Any) -> None:
    """Put back what the importer has kept of a step, its calls and its results."""
    rest = dict(kept) if isinstance(kept, dict) else {}
    calls, results = rest.pop("tool_calls", None), rest.pop("results", None)
    for call in step.get("tool_calls", ()):
        call.update((calls or {}).get(call["tool_call_id"]) or {})
    for number, result in enumerate(step.get("observation", {}).get("results", ())):
        result.update((results or {}).get(str(number)) or {})
    step.update({key: value for key, value in rest.items() if key not in step})
