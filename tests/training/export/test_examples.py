from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import letter_trace, stored_row
from tuneloop import jsonl
from tuneloop.datasets.schema import ContentHasher, DatasetManifest, TraceRow, trace_record
from tuneloop.training.export.examples import build_example, example_id
from tuneloop.training.schema import parse_example


def test_an_example_is_made_by_recipe_and_instruction(tmp_path: Path) -> None:
    row, manifest = stored_row(tmp_path, letter_trace(0), instruction="Show your work as steps")
    example = build_example(row, manifest)
    assert example.prompt == "Upper: red a\n\nShow your work as steps"
    assert example.response == "Reasoning:\n1. a -> A\nAnswer: A"
    metadata = json.loads(jsonl.encode_line(example))["metadata"]
    assert metadata["source_trace_id"] == row.id
    assert metadata["number"] == 0


def test_without_an_instruction_the_prompt_is_the_traces(tmp_path: Path) -> None:
    assert build_example(*stored_row(tmp_path, letter_trace(0))).prompt == "Upper: red a"


def test_ids_name_build_trace_and_recipe(tmp_path: Path) -> None:
    row, manifest = stored_row(tmp_path, letter_trace(0))
    first = build_example(row, manifest).id
    assert first == build_example(row, manifest).id
    assert uuid.UUID(first).version == 5
    others = {
        example_id("b", row.id, "r"),
        example_id("c", row.id, "r"),
        example_id("b", "t", "r"),
        example_id("b", row.id, "s"),
    }
    assert len(others) == 4


def test_an_example_holds_no_clock(tmp_path: Path) -> None:
    """The same traces stored at another time give the same bytes."""
    row, manifest = stored_row(tmp_path, letter_trace(0))
    later = msgspec.structs.replace(row, created_at="2030-01-01T00:00:00.000000Z")
    assert build_example(row, manifest) == build_example(later, manifest)


def test_steps_are_ordered_by_their_index(tmp_path: Path) -> None:
    steps = [
        {"i": 9, "type": "reason", "content": "last"},
        {"i": 0, "type": "reason", "content": "first"},
    ]
    row, manifest = stored_row(tmp_path, {**letter_trace(0), "steps": steps})
    assert build_example(row, manifest).response.startswith("Reasoning:\n1. first\n2. last\n")


def test_an_example_reads_back_as_it_was(tmp_path: Path) -> None:
    example = build_example(*stored_row(tmp_path, letter_trace(80)))
    assert parse_example(jsonl.encode_line(example), "f.jsonl:1") == example


META = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ),
    max_size=5,
)  # fmt: skip


@given(META)
def test_meta_keeps_the_spelling_of_canonical_json(meta: dict[str, Any]) -> None:
    """msgspec writes 1e16 and 0.00005, but published files have 1e+16 and 5e-05."""
    trace = {**letter_trace(0), "id": "x", "created_at": "2026-11-22T11:22:10.546379Z"}
    line = jsonl.dump_line({**trace, "meta": meta})
    row = msgspec.json.decode(line, type=TraceRow)
    assert row.line() == line
    hasher = ContentHasher()
    hasher.add(row)
    del trace["created_at"]
    without_time = jsonl.dump_line({**trace, "meta": meta})
    assert hasher.content().sha256 == hashlib.sha256(without_time).hexdigest()
    record = {**meta, "created_at": row.created_at, "trace_version": "1.0"}
    assert jsonl.encode_line(trace_record(row, cast(DatasetManifest, None))) == jsonl.dump_line(
        {
            "id": "x",
            "prompts": row.prompt,
            "trace_steps": row.step_contents,
            "final_answer": row.final_answer,
            "metadata": record,
        }
    )
