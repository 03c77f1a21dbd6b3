"""The fast reader gives the same result as pydantic, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tuneloop.store.db.codec import fast_array, fast_lines, fast_trace, new_trace
from tuneloop.traces.schema import ReasoningTrace

Make = Callable[..., dict[str, Any]]

texts = st.text(st.characters(exclude_categories=[]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = texts | st.none() | st.just("tool")
steps = st.fixed_dictionaries(
    {
        "i": st.integers(-1, 3) | st.sampled_from([1.0, "2", True, 2**63, 2**63 - 1]),
        "type": texts | st.sampled_from(["tool_call", "tool_result"]),
    },
    optional={
        "content": texts | st.just("ok"),
        "name": names,
        "call_id": names,
        "more": values,
    },
)
traces = st.fixed_dictionaries(
    {"prompt": texts, "final_answer": texts | st.integers(), "steps": st.lists(steps, max_size=3)},
    optional={
        "trace_version": texts | st.sampled_from(["1.0", "1.1"]),
        "system": names,
        "messages": st.none() | st.just([{"role": "user", "content": "q"}]) | values,
        "reward": st.none() | st.floats() | st.integers(),
        "labels": st.none() | st.dictionaries(texts, values, max_size=2),
        "meta": st.dictionaries(texts | st.just("source"), values, max_size=3) | values,
        "unknown": values,
    },
)


def good(trace: dict[str, Any]) -> dict[str, Any]:
    """Most input that hypothesis generates is invalid; this strategy is valid more often."""
    trace = {**trace, "trace_version": "1", "prompt": trace["prompt"] or "p", "final_answer": "a"}
    steps = [{**step, "i": n, "type": "t", "content": "c"} for n, step in enumerate(trace["steps"])]
    return {**trace, "steps": steps or [{"i": 0, "type": "t", "content": "c"}]}


@settings(max_examples=400, deadline=None)
@given(traces | traces.map(good))
def test_fast_is_a_part_of_slow(trace: dict[str, Any]) -> None:
    body = json.dumps(trace).encode()
    try:
        slow = new_trace(ReasoningTrace.model_validate_json(body))
    except ValidationError:
        slow = None
    fast = fast_trace(body)
    assert fast is None or fast == slow
    assert fast_array(b"[" + body + b"]") == (None if fast is None else [fast])
    assert fast_lines(body + b"\n") == (None if fast is None else [fast])


def test_what_people_send_is_read_fast(make_trace: Make) -> None:
    metas = [None, {}, {"source": "x", "n": 1}, {"x": 1e16, "deep": {"list": [1.5, {"y": None}]}}]
    sent = [make_trace(n, meta=meta, prompt="é🟡\u2028\x7f\t\\") for n, meta in enumerate(metas)]
    for ascii_only in (True, False):
        body = json.dumps(sent, ensure_ascii=ascii_only).encode()
        batch = fast_array(body)
        assert batch == [new_trace(ReasoningTrace.model_validate(trace)) for trace in sent]
    assert [trace.source for trace in batch or []] == [None, None, "x", None]


@pytest.mark.parametrize("depth", [62, 63, 64, 65])
def test_depth_ends_where_it_does_for_pydantic(make_trace: Make, depth: int) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    body = json.dumps(make_trace(meta={"k": nested})).encode()
    assert (fast_trace(body) is not None) == (depth < 64)
    if depth >= 64:
        with pytest.raises(ValidationError, match="nested deeper than 64"):
            ReasoningTrace.model_validate_json(body)


def test_long_sources_have_no_column(make_trace: Make) -> None:
    for source, kept in (("é" * 127, True), ("é" * 128, False), (5, False), (None, False)):
        found = fast_trace(json.dumps(make_trace(meta={"source": source})).encode())
        assert found is not None
        assert (found.source is not None) == kept
