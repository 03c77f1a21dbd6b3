"""Whatever trace is exported comes back equal, and every format holds whole conversations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.traces.conversations import Drawn
from tuneloop.jsonl import dump_line
from tuneloop.traces.conversation import trace_of_conversation
from tuneloop.traces.exporters.chat import conversation
from tuneloop.traces.exporters.lines import Lines
from tuneloop.traces.exporters.table import EXPORTERS
from tuneloop.traces.importers.chat import EXTRAS
from tuneloop.traces.importers.table import IMPORTERS
from tuneloop.traces.schema import ReasoningTrace

CONVERT = {name: row.convert() for name, row in IMPORTERS.items()}


def canonical(trace: Any) -> bytes:
    """Return the bytes that a store keeps of a trace."""
    return dump_line(ReasoningTrace.model_validate(trace).model_dump(mode="json"))


def come_back(name: str, trace: dict[str, Any]) -> dict[str, Any]:
    record = json.loads(Lines(name).line(trace))
    return dict(CONVERT[EXPORTERS[name].importer](record, "f:1"))


TRACES = [Drawn(seed).trace() for seed in range(1000)]
CHATS = [Drawn(seed).conversation() for seed in range(1000)]


@pytest.mark.parametrize("name", [n for n, row in EXPORTERS.items() if row.is_lossless])
def test_1000_traces_come_back_with_the_same_bytes(name: str) -> None:
    lines, convert = Lines(name), CONVERT[EXPORTERS[name].importer]
    for trace in TRACES:
        record = json.loads(lines.line(trace))
        assert canonical(convert(record, "f:1")) == canonical(trace)
    assert not list(lines.losses())


@pytest.mark.parametrize("name", EXPORTERS)
def test_1000_conversations_come_back_without_extras(name: str) -> None:
    export, convert = EXPORTERS[name].export(), CONVERT[EXPORTERS[name].importer]
    for chat in CHATS:
        trace = trace_of_conversation(chat["messages"], system=chat["system"], tools=chat["tools"])
        record = json.loads(json.dumps(export(trace)))
        extras = record.pop(EXTRAS, "{}"), record.pop("extra", {})
        assert extras == ("{}", {})
        made = convert(record, "f:1")
        assert conversation(made) == chat["messages"]
        assert (made.get("system"), made.get("tools")) == (chat["system"], chat["tools"])


@pytest.mark.parametrize(("name", "marks"), [("openai", [0, 1]), ("axolotl", [False, True])])
def test_what_is_not_trained_on_has_the_key_of_the_tool(name: str, marks: list[Any]) -> None:
    export, convert = EXPORTERS[name].export(), CONVERT["messages"]
    key, found = ("weight" if name == "openai" else "train"), set()
    for seed in range(300):
        messages = Drawn(seed).marked(CHATS[seed]["messages"])
        record = json.loads(json.dumps(export(trace_of_conversation(messages))))
        found |= {dump_line({"": each[key]}) for each in record["messages"] if key in each}
        assert record.pop(EXTRAS, "{}") == "{}"
        assert conversation(convert(record, "f:1")) == messages
    assert found == {dump_line({"": mark}) for mark in marks}


@pytest.mark.parametrize(
    "mark", [{"weight": 0.5}, {"weight": True}, {"train": 0}, {"weight": 0, "train": True}]
)
def test_other_marks_are_kept_in_meta(mark: dict[str, Any]) -> None:
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    record = {"messages": [turn[0], turn[1] | mark, turn[0], turn[1] | {"weight": 0}]}
    made = CONVERT["messages"](record, "f:1")
    assert made["messages"] == turn
    assert made["meta"] == {"message_fields": {"1": mark, "3": {"weight": 0}}}


def test_what_openai_does_not_hold_is_counted() -> None:
    lines = Lines("openai")
    for trace in TRACES[:100]:
        lines.line(trace)
    assert {loss.split(" of ")[0].rsplit(" ", 1)[1] for loss in lines.losses()} >= {
        *("labels", "meta", "reward", "steps")
    }
