"""Whatever a record holds, it becomes a valid trace or is refused in one sentence."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest

from tests.traces.conversations import Drawn
from tests.traces.importers.test_formats import WRITERS
from tuneloop.errors import DataError
from tuneloop.traces.conversation import trace_of_conversation
from tuneloop.traces.exporters.table import EXPORTERS
from tuneloop.traces.files import _validate
from tuneloop.traces.importers.table import IMPORTERS

JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, "", "x", "{}", "[", "<think>", "\x00", "\ud800", [], {}, [[]], [{}]),
    *([None], {"x": 1}, {"role": []}, {"type": {}}, "x" * 60_000, float("nan"), [{"role": "user"}]),
)
COUNT = 500


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every container with each of its keys."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [(value, key) for key in keys]
    return [*found, *(place for key in keys for place in _places(value[key]))]


def _damaged(record: dict[str, Any], random: Random) -> dict[str, Any]:
    value: dict[str, Any] = {"record": copy.deepcopy(record)}
    for _ in range(random.randint(1, 2)):
        container, key = random.choice(_places(value))
        if random.random() < 0.3 and isinstance(container, dict) and container is not value:
            del container[key]
        else:
            container[key] = copy.deepcopy(random.choice(JUNK))
    if not isinstance(value["record"], dict):
        return record
    damaged: dict[str, Any] = value["record"]
    return damaged


def _sample(name: str) -> list[dict[str, Any]]:
    if name in WRITERS:
        write, options = WRITERS[name]
        return [write(Drawn(seed).conversation(**options)) for seed in range(20)]
    if name == "gsm8k":
        return [{"question": "2 + 2?", "answer": "add\n#### 4", "n": 1}]
    traces = [Drawn(seed).trace() for seed in range(20)]
    for seed in range(20):
        chat = Drawn(seed).conversation()
        traces.append(
            trace_of_conversation(chat["messages"], system=chat["system"], tools=chat["tools"])
        )
    export = EXPORTERS[name].export()
    return [json.loads(json.dumps(export(trace))) for trace in traces]


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_damaged_record_is_a_trace_or_one_sentence(name: str) -> None:
    random, samples, row = Random(1), _sample(name), IMPORTERS[name]
    convert, outcomes = row.convert(), {True: 0, False: 0}
    for _ in range(COUNT):
        record = _damaged(random.choice(samples), random)
        try:
            parts = [("f:7", record)] if row.split is None else row.split()(record, "f:7")
            for place, part in parts:
                if part is not None:
                    _validate(convert(part, place), place)
            outcomes[True] += 1
        except DataError as e:
            assert str(e).startswith("f:7") and "\n" not in str(e)
            outcomes[False] += 1
    assert min(outcomes.values()) > COUNT // 20
