"""Import format `otel`: spans of OpenTelemetry with the attributes of generative AI.

A span has `gen_ai.input.messages` and `gen_ai.output.messages`, as the semantic conventions define
them. A file holds spans as JSON objects, or the OTLP JSON of the collector's file exporter, which
has many spans per line. What a trace has no field for is kept in `meta.otel`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import Chat, Message, as_list, json_text, objects, without_null
from tuneloop.validation import shorten

OTEL = "otel"
"""Key of meta with what the trace does not hold."""
_INPUT, _OUTPUT = "gen_ai.input.messages", "gen_ai.output.messages"
_SYSTEM, _TOOLS = "gen_ai.system_instructions", "gen_ai.tool.definitions"
_OPERATION = "gen_ai.operation.name"
_INFERENCE = ("chat", "generate_content", "text_completion")
_OTHER_SIGNALS = frozenset({"resourceLogs", "resourceMetrics"})
"""What the collector writes into the same file if it exports more than spans."""
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_SCALARS = ("stringValue", "boolValue", "doubleValue", "bytesValue")


def spans_of_record(
    value: Mapping[str, Any], place: str
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Split a record into its spans.

    Args:
        value: one span, or OTLP JSON with `resourceSpans`.
        place: its location for error messages.

    Yields:
        The place of each span and, if it is the call of a model, the span with its attributes as
        one object. Other spans, such as calls of tools and whole agents, are None.
    """
    if "resourceSpans" not in value:
        if "attributes" not in value and not value.keys() & _OTHER_SIGNALS:
            raise DataError(
                f"{place}: found the keys {shorten(sorted(value))}, expected a span with"
                " attributes, or resourceSpans; fix the line, or use another format"
            )
        span = _flat(value, place)
        yield place, span if _is_inference(span) else None
        return
    number = 0
    for outer in objects(value["resourceSpans"], "resourceSpans", place):
        (source,) = objects([outer.get("resource", {})], "resource", place)
        resource = _attributes(source.get("attributes"), place)
        for scope in objects(outer.get("scopeSpans"), "scopeSpans", place):
            for each in objects(scope.get("spans"), "spans", place):
                number += 1
                where = f"{place}: span {number}"
                span = _flat(each, where) | ({"resource": resource} if resource else {})
                yield where, span if _is_inference(span) else None


def _is_inference(span: Mapping[str, Any]) -> bool:
    operation = span["attributes"].get(_OPERATION)
    return operation in _INFERENCE or (operation is None and _OUTPUT in span["attributes"])


def trace_of_span(span: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert one span from `spans_of_record`.

    Args:
        span: the span; its attributes are an object.
        place: its location for error messages.

    Raises:
        DataError: the span has no messages, several answers, or content that is no text.
    """
    attributes = dict(span["attributes"])
    if _INPUT not in attributes or _OUTPUT not in attributes:
        raise DataError(
            f"{place}: the span has no {_INPUT} or no {_OUTPUT}, expected both; let the"
            " instrumentation record the content of messages"
        )
    asked, answers, instructions, tools = (
        as_list(attributes.pop(key, None), key, place) for key in (_INPUT, _OUTPUT, _SYSTEM, _TOOLS)
    )
    if len(answers) != 1:
        raise DataError(
            f"{place}: the span has {len(answers)} output messages, expected one; choose one of the"
            " answers"
        )
    rest = {**span, "attributes": attributes}
    chat = Chat({OTEL: {key: each for key, each in rest.items() if each}}, place)
    if instructions:
        chat.set_system(_parts(instructions, place)[0]["content"], place)
    for message in [*asked, *answers]:
        chat.add(_messages(message, place), lambda made, where: made)
    return chat.trace(tools)


def _messages(value: Any, place: str) -> list[tuple[Message, dict[str, Any]]]:
    rest = without_null(value) if isinstance(value, dict) else {}
    role, parts = rest.pop("role", None), rest.pop("parts", None)
    if role not in ("system", "user", "assistant", "tool") or not isinstance(parts, list):
        raise DataError(
            f"{place}: found the message {shorten(value)}, expected a role and parts; fix the span"
        )
    made = _parts(parts, place)
    is_result = [each["role"] == "tool" for each in made]
    if any(is_result) != (role == "tool") or any(is_result) != all(is_result):
        raise DataError(
            f"{place}: a message of {role} has the parts {shorten(parts)}, expected results of"
            " tools in messages of tool, and only there; fix the span"
        )
    for message in made:
        message["role"] = role
    if role != "assistant" and any(set(each) & {"reasoning", "tool_calls"} for each in made):
        raise DataError(
            f"{place}: a message of {role} has the parts {shorten(parts)}, expected reasoning and"
            " calls only from the assistant; fix the span"
        )
    return [(message, {} if number else rest) for number, message in enumerate(made)]


def _parts(parts: list[Any], place: str) -> list[Message]:
    """Return the message of some parts, or one message per result of a tool."""
    message: Message = {"role": "", "content": ""}
    results: list[Message] = []
    for part in parts:
        rest = without_null(part) if isinstance(part, dict) else {}
        kind, text = rest.pop("type", None), rest.pop("content", "")
        if kind == "text" and isinstance(text, str):
            message["content"] += text
        elif kind == "reasoning" and isinstance(text, str):
            message["reasoning"] = "\n\n".join(filter(None, (message.get("reasoning"), text)))
        elif kind == "tool_call" and isinstance(rest.get("name"), str):
            call = {"name": rest.pop("name"), "arguments": json_text(rest.pop("arguments", {}))}
            identifier = {"id": rest.pop("id")} if "id" in rest else {}
            message.setdefault("tool_calls", []).append(call | identifier)
        elif kind == "tool_call_response":
            result = {"role": "tool", "content": json_text(rest.pop("response", ""))}
            identifier = {"tool_call_id": rest.pop("id")} if "id" in rest else {}
            results.append(result | identifier)
        else:
            rest = {"type": kind}
        if rest:
            raise DataError(
                f"{place}: has the part {shorten(part)}, expected text, reasoning, calls of tools"
                " and their results; remove the span"
            )
    said = any(message.values())
    return results if results and not said else [message, *results]


def _flat(span: Any, place: str) -> dict[str, Any]:
    """Copy a span with its attributes as an object; OTLP has a list of keys and values."""
    found = without_null(span) if isinstance(span, dict) else {}
    attributes = found.get("attributes")
    if not isinstance(attributes, dict):
        attributes = _attributes(attributes, place)
    return {**found, "attributes": attributes}


def _attributes(listed: Any, place: str) -> dict[str, Any]:
    return {
        str(each["key"]): _value(each.get("value"), f"{place}: {str(each['key'])[:60]}")
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and "key" in each
    }


def _value(value: Any, place: str) -> Any:
    """Return the value of OTLP's AnyValue."""
    if not isinstance(value, dict):
        return value
    if "intValue" in value:
        return _integer(value["intValue"], place)
    for kind in ("arrayValue", "kvlistValue"):
        if kind in value:
            (inner,) = objects([value[kind] or {}], kind, place)
            listed = as_list(inner.get("values"), f"{kind}.values", place)
            if kind == "kvlistValue":
                return _attributes(listed, place)
            return [_value(each, place) for each in listed]
    return next((value[key] for key in _SCALARS if key in value), None)


def _integer(value: Any, place: str) -> int:
    """Return a 64-bit integer, which is text in the JSON of protobuf."""
    is_text = isinstance(value, str) and _INTEGER.fullmatch(value)
    if not is_text and (not isinstance(value, int) or isinstance(value, bool)):
        raise DataError(
            f"{place}: intValue is {shorten(value)}, expected an integer of 64 bits, or its text;"
            " fix the span"
        )
    return int(value)
